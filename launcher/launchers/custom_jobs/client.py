"""Google's client, and its failures in the user's words. Nothing else imports Google's packages.

Requests go over REST. ``CLOUDSDK_API_ENDPOINT_OVERRIDES_AIPLATFORM``, gcloud's own variable, names another
endpoint than the region's; ``STORAGE_EMULATOR_HOST`` is the storage client's.
"""

from __future__ import annotations

import functools
import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import google.auth
from google.api_core import exceptions
from google.api_core.client_options import ClientOptions
from google.api_core.retry import Retry, if_exception_type
from google.auth.credentials import Credentials
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, TransportError
from google.cloud import storage
from google.cloud.aiplatform_v1.services.job_service import JobServiceClient
from google.cloud.aiplatform_v1.types import AcceleratorType, CustomJob
from google.protobuf import json_format
from requests.exceptions import RequestException

from launcher.errors import ConfigError
from launcher.launchers.custom_jobs.states import VertexError

ANSWER_SECONDS = 60.0
"""How long Google has for an answer."""
PATIENCE_SECONDS = 30.0
"""How long a question is asked again that changes nothing."""
_ASKED = re.compile(r"^(GET|POST) \S+: ")
_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_PASSING = (
    exceptions.TooManyRequests,
    exceptions.InternalServerError,
    exceptions.BadGateway,
    exceptions.ServiceUnavailable,
    exceptions.GatewayTimeout,
    RequestException,
)
"""What the next try may not meet."""


@functools.cache
def _credentials() -> tuple[Credentials, str | None]:
    try:
        found, project = google.auth.default(scopes=[_SCOPE])
    except DefaultCredentialsError as error:
        raise VertexError(
            "There are no credentials for Google Cloud here.",
            found=str(error).splitlines()[0],
            do=["gcloud auth application-default login", "or GOOGLE_APPLICATION_CREDENTIALS=KEY_FILE"],
        ) from error
    return found, project


def default_project() -> str | None:
    """The project that the credentials belong to, or that ``GOOGLE_CLOUD_PROJECT`` names.

    Raises:
        VertexError: there are no credentials.
    """
    return _credentials()[1]


def accelerators() -> list[str]:
    """Names of accelerators that the API knows."""
    return [one.name for one in AcceleratorType if one.value]


def check_job(job: Mapping[str, Any]) -> None:
    """Hold a job against the API's own schema.

    Raises:
        ConfigError: a field that does not exist, or a value of another type.
    """
    _message(job)


@functools.cache
def _client(region: str) -> JobServiceClient:
    endpoint = os.environ.get("CLOUDSDK_API_ENDPOINT_OVERRIDES_AIPLATFORM", "").rstrip("/")
    return JobServiceClient(
        credentials=_credentials()[0],
        transport="rest",
        client_options=ClientOptions(api_endpoint=endpoint or f"{region}-aiplatform.googleapis.com"),
    )


class CustomJobs:
    """The CustomJobs of one project in one region. Jobs are dicts, spelled as REST spells them."""

    def __init__(self, parent: str) -> None:
        """``parent``: ``projects/PROJECT/locations/REGION``."""
        self.parent = parent
        self._region = parent.rpartition("/")[2]

    def create(self, job: Mapping[str, Any]) -> dict[str, Any]:
        """Submit a job; asked once only.

        Raises:
            VertexError: refused; with ``lost``, nobody knows whether the job was taken.
        """
        message = _message(job)
        with _told(self.parent):
            made = _client(self._region).create_custom_job(
                parent=self.parent, custom_job=message, timeout=ANSWER_SECONDS, retry=None
            )
        return _plain(made)

    def get(self, name: str) -> dict[str, Any] | None:
        """A job; None where there is none of that name.

        Raises:
            VertexError: refused, or no answer.
        """
        with _told(name):
            try:
                found = _client(self._region).get_custom_job(
                    name=name, timeout=ANSWER_SECONDS, retry=_patient()
                )
            except exceptions.NotFound:
                return None
        return _plain(found)

    def labelled(self, key: str, value: str) -> dict[str, Any] | None:
        """The job with this label, of which there is one at most; None where there is none.

        Raises:
            VertexError: refused, or no answer.
        """
        request = {"parent": self.parent, "filter": f"labels.{key}={value}", "page_size": 1}
        with _told(self.parent):
            pages = _client(self._region).list_custom_jobs(
                request=request, timeout=ANSWER_SECONDS, retry=_patient()
            )
            found = next(iter(pages), None)
        return None if found is None else _plain(found)

    def cancel(self, name: str) -> None:
        """Cancel a job; one that is over, or unknown, is passed over.

        Raises:
            VertexError: refused, or no answer.
        """
        with _told(name):
            try:
                _client(self._region).cancel_custom_job(name=name, timeout=ANSWER_SECONDS, retry=_patient())
            except (exceptions.NotFound, exceptions.FailedPrecondition):
                return


def hierarchical(bucket: str) -> bool | None:
    """Whether directories of a bucket can be renamed; None where the credentials may not see that.

    Raises:
        VertexError: there is no such bucket, or no answer.
    """
    with _told(f"gs://{bucket}"):
        credentials, project = _credentials()
        client = storage.Client(project=project or "unknown", credentials=credentials)
        try:
            found = client.get_bucket(bucket, timeout=ANSWER_SECONDS, retry=_patient())
        except exceptions.Forbidden:
            return None
        finally:
            client.close()
        return bool(found.hierarchical_namespace_enabled)


def _patient() -> Retry:
    return Retry(predicate=if_exception_type(*_PASSING), initial=0.5, maximum=5, timeout=PATIENCE_SECONDS)


def _message(job: Mapping[str, Any]) -> CustomJob:
    try:
        return CustomJob.wrap(json_format.ParseDict(dict(job), CustomJob.pb(CustomJob())))
    except json_format.ParseError as error:
        first, _, rest = str(error).partition("\n")
        raise ConfigError(
            "Vertex AI's CustomJob has no such field, or not such a value.",
            where="hydra.launcher.additional_parameters, hydra.launcher.nfs_mounts",
            found=first,
            expected=rest.strip() or None,
        ) from error


def _plain(job: CustomJob) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(json_format.MessageToJson(CustomJob.pb(job)))
    return value


@contextmanager
def _told(where: str) -> Iterator[None]:
    """Failures of Google's packages as one readable message."""
    try:
        yield
    except exceptions.RetryError as error:
        cause = error.cause if isinstance(error.cause, Exception) else error
        raise _error(cause, where) from error
    except (exceptions.GoogleAPIError, RequestException, GoogleAuthError, json_format.ParseError) as error:
        raise _error(error, where) from error


def _error(error: Exception, where: str) -> VertexError:
    # Where it was asked is said by ``where``; the address has nothing more for people.
    found = _ASKED.sub("", getattr(error, "message", None) or str(error))
    code = error.code if isinstance(error, exceptions.GoogleAPICallError) else None
    what, do = _SAID.get(int(code or 0), ("Google Cloud refused.", "see what it says"))
    if code is None:
        what, do = "Google Cloud gave no usable answer.", "see whether it can be reached from here"
    refused = isinstance(error, GoogleAuthError) and not isinstance(error, TransportError)
    if refused:
        what, do = _SAID[401]
    lost = not refused and (code is None or int(code) >= 500)
    return VertexError(what, where=where, found=" ".join(str(found).split())[:400], do=do, lost=lost)


_SAID: Mapping[int, tuple[str, str]] = {
    400: ("Vertex AI takes no such job.", "correct hydra.launcher"),
    401: ("Google Cloud does not accept these credentials.", "gcloud auth application-default login"),
    403: (
        "These credentials may not do that, or the API is not enabled.",
        "have roles/aiplatform.user granted in the project, and roles/iam.serviceAccountUser on the "
        "service account; gcloud services enable aiplatform.googleapis.com",
    ),
    404: ("Google Cloud knows nothing of that name.", "check project, region and bucket"),
    409: ("Google Cloud has something of that name already.", "give the same command again"),
    429: (
        "The project's quota is used up.",
        "wait, or ask for more; another region or accelerator; fewer jobs at once: "
        "fanout.max_parallel=N hydra.launcher.wait=true",
    ),
    **dict.fromkeys(
        (500, 502, 503, 504), ("Google Cloud failed to answer.", "give the same command again in a while")
    ),
}
