"""What authors of plugins need to test them: a whole adapter in the process, under a virtual clock.

    def test_two_studies_two_jobs(make_adapter):
        adapter = make_adapter(MY_CONFIGURATION)
        adapter.receive(make_instance(), make_instance(), ae_title="LUNG")
        adapter.advance(5)
        assert 2 == len(adapter.jobs)

The pytest fixtures come with the installation.
"""

from dicom_adapter.synthetic import make_instance, make_study
from dicom_adapter.testing.adapter import Adapter, Plugin
from dicom_adapter.testing.clock import VirtualClock

__all__ = ["Adapter", "Plugin", "VirtualClock", "make_instance", "make_study"]
