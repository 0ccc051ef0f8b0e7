"""The submitter `container`: each job runs a container image with podman or docker.

The runner of a job starts the program of this package, `python -m dicom_adapter_pipelines.container run <job folder>`,
which prepares the container, runs the command-line client of the engine in the foreground, and writes a report. The
runner also runs `… end <job folder>`, which removes the container in any state.
"""
