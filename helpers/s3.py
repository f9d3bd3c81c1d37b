"""S3 storage by ``s3:`` and ``s3a:`` URIs, through s3fs.

Credentials come from the environment, never from a URI: ``CREDENTIALS`` lists the variables. Without any of them
Amazon's library looks for a profile or for the role of the machine.
"""

import os
import re
from urllib.parse import urlsplit

from helpers import InputError
from helpers.uri import shown

# The names that Amazon's own tools read. The endpoint is the address of another storage than Amazon's, or an emulator.
CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION",
               "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")


def s3_filesystem(uri: str):
    """s3fs's file system for a URI, and the path in it."""
    if not urlsplit(uri).netloc:
        raise InputError(f"expected s3://bucket/path, got {shown(uri)}. Name a bucket.")
    if shown(uri) != re.split("[?#]", uri)[0]:
        raise InputError(f"expected {shown(uri)}, got keys before it. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY "
                         "instead.")
    from helpers.s3_filesystem import S3
    # s3fs keeps one connection for equal arguments: with the keys among them, new ones are used at once. A cached
    # listing would hide the files that a worker has written since. Parquet reads ranges far apart, so reading 50 MB
    # ahead would be waste.
    known = {name: os.environ.get(name) or None for name in CREDENTIALS}
    return S3(key=known["AWS_ACCESS_KEY_ID"], secret=known["AWS_SECRET_ACCESS_KEY"], token=known["AWS_SESSION_TOKEN"],
              endpoint_url=known["AWS_ENDPOINT_URL_S3"] or known["AWS_ENDPOINT_URL"], use_listings_cache=False,
              default_cache_type="none"), S3._strip_protocol(uri)
