"""The DICOM network: the upper layer, the listening sockets and the sending side. Only this package knows pynetdicom."""
