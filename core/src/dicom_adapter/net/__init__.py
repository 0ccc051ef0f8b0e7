"""The DICOM network: the upper layer, listening sockets, the sending side. Only this package knows pynetdicom."""
