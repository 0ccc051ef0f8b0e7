"""All routes of the admin API."""

from __future__ import annotations

from typing import Any

from dicom_adapter.web.access.access import Access
from dicom_adapter.web.admin.commands import Audits
from dicom_adapter.web.admin.configuration import configuration_routes
from dicom_adapter.web.admin.events import event_routes
from dicom_adapter.web.admin.instances import instance_routes
from dicom_adapter.web.admin.jobs import job_routes
from dicom_adapter.web.admin.results import result_routes
from dicom_adapter.web.admin.senders import sender_routes
from dicom_adapter.web.admin.session import session_routes
from dicom_adapter.web.admin.status import status_routes
from dicom_adapter.web.admin.studies import study_routes
from dicom_adapter.web.site import Site


def admin_routes(site: Site, access: Access, audits: Audits) -> list[Any]:
    """Return the routes below `/api`."""
    return [
        *session_routes(access),
        *status_routes(site),
        *job_routes(site),
        *instance_routes(site),
        *result_routes(site),
        *study_routes(site),
        *sender_routes(site),
        *event_routes(site),
        *configuration_routes(site, audits),
    ]
