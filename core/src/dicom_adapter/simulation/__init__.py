"""A complete adapter in one process, with a virtual clock: the basis of `dicom_adapter.testing` and `simulate`."""
