"""The public contract: everything that a plugin implements or receives; `dicom_adapter` re-exports it."""
