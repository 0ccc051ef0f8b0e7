"""`dicom-adapter doctor`: test each plugin in a separate process, so that even a crash or hang is reported."""
