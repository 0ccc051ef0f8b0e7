"""The DICOM network: the upper layer, listening sockets, and the SCU. No other package uses pynetdicom."""
