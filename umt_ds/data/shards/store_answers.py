"""What stores say, and what to do about it: one sentence for answers that libraries put in many ways. Torch-free."""

from __future__ import annotations

import re

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


def _answers(error: BaseException) -> str:
    """Types, texts and HTTP statuses of an error and of those that it comes from."""
    parts: list[str] = []
    chain: BaseException | None = error
    while chain is not None and len(parts) < 30:
        status = getattr(chain, "status", None) or getattr(chain, "code", None)
        parts += [type(chain).__name__, str(chain), f"status={status}"]
        chain = chain.__cause__ or chain.__context__
    return "\n".join(parts)


# What talks to stores. Much of what these raise is no OSError, and none of it is a bug of ours.
_LIBRARIES = {"aiobotocore", "aiohttp", "botocore", "fsspec", "s3fs", "gcsfs", "google", "adlfs", "azure"} | {
    *("huggingface_hub", "requests", "httpx", "urllib3", "paramiko", "ossfs", "webdav4")
}


def told_of_store(error: BaseException) -> str | None:
    """What a command says at its end of an error that comes from a store's library; None for all else."""
    chain: BaseException | None = error
    while chain is not None:
        if {kind.__module__.partition(".")[0] for kind in type(chain).__mro__} & _LIBRARIES:
            return f"the store refuses or fails: {type(error).__name__}: {said(error)}\n  hint: {advice_on(error)}"
        chain = chain.__cause__ or chain.__context__
    return None
