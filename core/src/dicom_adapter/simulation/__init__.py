"""A whole adapter in the process, under a virtual clock: what `dicom_adapter.testing` and `simulate` build on."""
