"""s3fs's file system with one sentence for an error; imported with the first ``s3:`` URI."""

import asyncio
import errno
import os
import re
from urllib.parse import urlsplit

from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError
from s3fs import S3FileSystem
from s3fs.errors import EREMOTEIO

from helpers import InputError
from helpers.uri import shown

# Codes that s3fs takes for mistakes in a request: temporary keys have expired, or the token belongs to other keys. The
# answer to a HEAD request has only its status.
_KEYS = {"ExpiredToken", "InvalidToken", "TokenRefreshRequired", "400"}


class S3(S3FileSystem):
    # A separate class, so that fsspec does not mix its cached connections with those of s3fs's class.
    cachable = True

    async def _call_s3(self, method, *arguments, **named):
        """A request, which s3fs tries several times. An error shows only its code: the rest may hold a key."""
        try:
            return await super()._call_s3(method, *arguments, **named)
        except (OSError, BotoCoreError, ClientError, asyncio.TimeoutError) as error:
            place = f"s3://{named.get('Bucket', '')}"
            answer = getattr(error, "response", None) or getattr(error.__cause__, "response", None) or {}
            code = answer.get("Error", {}).get("Code", type(error).__name__)
            if "IfNoneMatch" in named and code in ("PreconditionFailed", "412"):
                raise FileExistsError(named["Key"]) from None
            # Another writer at the same moment, or a store without conditional writes.
            if "IfNoneMatch" in named and code in ("ConditionalRequestConflict", "NotImplemented"):
                if code == "NotImplemented":
                    del named["IfNoneMatch"]
                return await self._call_s3(method, *arguments, **named)
            if code in ("NoSuchBucket", "InvalidBucketName", "ParamValidationError"):
                raise InputError(f"expected a bucket at {place}, got none of this name. Create it, or correct the URI."
                                 ) from None
            if code in _KEYS or isinstance(error, (PermissionError, NoCredentialsError, PartialCredentialsError)):
                raise InputError(
                    f"expected to be allowed to use {place}, got {code}. Set AWS_ACCESS_KEY_ID and "
                    "AWS_SECRET_ACCESS_KEY (for temporary keys also AWS_SESSION_TOKEN), or let the role of this "
                    "machine read and write there.") from None
            if (isinstance(error, (BotoCoreError, asyncio.TimeoutError, ConnectionError))
                    or getattr(error, "errno", None) in (errno.EBUSY, EREMOTEIO)):
                raise InputError(
                    f"expected an answer for {place}, got {code} after several tries. Run the same command again "
                    "when the storage or the network has recovered: finished work is kept.") from None
            raise


def open_uri(uri: str):
    """s3fs's file system for a URI, and the path in it.

    Without keys in the environment, Amazon's library looks for a profile or for the role of the machine.
    """
    if not urlsplit(uri).netloc:
        raise InputError(f"expected s3://bucket/path, got {shown(uri)}. Name a bucket.")
    if shown(uri) != re.split("[?#]", uri)[0]:
        raise InputError(f"expected {shown(uri)}, got keys before it. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY "
                         "instead.")
    # s3fs keeps one connection for equal arguments: with the keys among them, new ones are used at once. A cached
    # listing would hide the files that a worker has written since. Parquet reads ranges far apart, so reading 50 MB
    # ahead would be waste.
    key, secret, token, endpoint, own_endpoint = (os.environ.get(f"AWS_{name}") or None for name in (
        "ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN", "ENDPOINT_URL", "ENDPOINT_URL_S3"))
    return S3(key=key, secret=secret, token=token, endpoint_url=own_endpoint or endpoint, use_listings_cache=False,
              default_cache_type="none"), S3._strip_protocol(uri)
