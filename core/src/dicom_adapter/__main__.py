"""`python -m dicom_adapter` is `dicom-adapter`."""

from dicom_adapter.cli import main

main()
