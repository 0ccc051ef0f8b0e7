"""What operators ask: status, explain, audit, repair and export."""
