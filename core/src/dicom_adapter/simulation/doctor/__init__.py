"""`dicom-adapter doctor`: test each plugin in a process of its own, so that even a crash or hang is reported."""
