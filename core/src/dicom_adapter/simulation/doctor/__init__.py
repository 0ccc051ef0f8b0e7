"""`dicom-adapter doctor`: each plugin is tried in a process of its own, so that whatever it does is told and ends."""
