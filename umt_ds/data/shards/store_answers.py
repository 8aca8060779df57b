"""What stores say, and what to do about it: one sentence for answers that libraries put in many ways. Torch-free."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator

AGAIN = "give the same command again: it goes on where this one ended"


def hint_of(error: BaseException) -> str | None:
    """What to do about an answer of a store, where that is known better than "check the network"."""
    if isinstance(error, OSError) and error.filename is not None:
        return None  # the operating system's own: no store has a file's name there
    said = re.sub(r"\S*/\S*", " ", _answers(error))  # a bucket may be called "credentials", a file "Forbidden_City"
    if "InvalidObjectState" in said:
        return "the object is in an archive (S3 Glacier): restore it, then start the same command again: it resumes"
    if "RequestTimeTooSkewed" in said:
        return "the clock of this machine is wrong: set it (`timedatectl`), then start the same command again"
    if re.search(_REFUSED, said):
        return (
            "the store refuses the credentials: they are missing, wrong, or have expired (or this machine's clock is "
            "wrong). Renew them (for s3:// AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN, or "
            "~/.aws/credentials), then start the same command again: it resumes"
        )
    return None


class WrongLengthError(OSError):
    """An answer with fewer or more bytes than were asked for."""

    def __init__(self, got: int, asked: int, *, at: str = "") -> None:
        super().__init__(f"the store sent {got} bytes of {asked}{at}")
        self.got, self.asked = got, asked


def passes(error: OSError) -> bool:
    """Whether a store may recover from it: it throttles, resets connections, does not answer, or fails in itself. What
    it refuses or does not have, a wrong answer, and a request that cannot be made are told soon."""
    told = (WrongLengthError, FileNotFoundError, IsADirectoryError, NotADirectoryError)
    if isinstance(error, told) or error.filename is not None or error.errno == errno.EINVAL:  # HTTP 416
        return False
    if isinstance(error.__cause__, _NOT_ASKED) or re.search(_MISNAMED, _answers(error)):
        return False
    return hint_of(error) is None


def retry_after_s(error: BaseException) -> float:
    """The seconds that the store asks to wait (Retry-After); 0 where it does not say, or gives a date."""
    for one in _chain(error):
        response = getattr(one, "response", None)  # botocore's has a mapping, that of `requests` an object
        metadata = response.get("ResponseMetadata", {}) if isinstance(response, dict) else {}
        headers = metadata.get("HTTPHeaders") or getattr(response, "headers", None) or getattr(one, "headers", None)
        for name in ("retry-after", "Retry-After"):
            if headers and re.fullmatch(r"\s*\d{1,5}\s*", str(headers.get(name))):
                return float(headers[name])
    return 0.0


def said(error: BaseException) -> str:
    """What an error says, in one line: some stores' libraries quote whole answers."""
    return " ".join(str(error).split())[:300] or type(error).__name__


def advice_on(error: BaseException) -> str:
    """`hint_of`, or else where to look."""
    return hint_of(error) or f"check the store and the network, then {AGAIN}"


# codes of S3, classes of botocore and others, and HTTP's own words and numbers (a HEAD has no room for more)
_REFUSED = (
    r"(?i)ExpiredToken|InvalidToken|TokenRefreshRequired|InvalidAccessKeyId|SignatureDoesNotMatch|AccessDenied|"
    r"credential|Unauthorized|Forbidden|SSOToken|TokenRetrieval|RefreshError|PermissionError|RequestExpired|"
    r"AuthenticationFailed|AuthenticationError|AuthorizationFailure|AuthorizationPermissionMismatch|GatedRepo|"
    r"40[13] Client Error|HTTP (401|403)|\((401|403)\)|status=40[13]\b|HeadObject operation: Bad Request"
)
_MISNAMED = r"ParamValidationError|ProfileNotFound|InvalidRegionError|InvalidConfigError|NoSuchBucket|InvalidBucketName"
# a library's, on what it was given
_NOT_ASKED = (TypeError, ValueError, LookupError, AttributeError, NotImplementedError)


def _answers(error: BaseException) -> str:
    """Types, texts and HTTP statuses of an error and of those that it comes from."""
    parts: list[str] = []
    for one in _chain(error):
        status = getattr(one, "status", None) or getattr(one, "code", None)
        parts += [type(one).__name__, str(one), f"status={status}"]
    return "\n".join(parts)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those that it comes from, ten at most."""
    one: BaseException | None = error
    for _ in range(10):
        if one is not None:
            yield one
            one = one.__cause__ or one.__context__


# What talks to stores. Much of what these raise is no OSError, and none of it is a bug of ours.
_LIBRARIES = {"aiobotocore", "aiohttp", "botocore", "fsspec", "s3fs", "gcsfs", "google", "adlfs", "azure"} | {
    *("huggingface_hub", "requests", "httpx", "urllib3", "paramiko", "ossfs", "webdav4")
}


def told_of_store(error: BaseException) -> str | None:
    """What a command says at its end of an error that comes from a store's library; None for all else."""
    for one in _chain(error):
        if {kind.__module__.partition(".")[0] for kind in type(one).__mro__} & _LIBRARIES:
            return f"the store refuses or fails: {type(error).__name__}: {said(error)}\n  hint: {advice_on(error)}"
    return None
