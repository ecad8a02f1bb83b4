"""Signature Version 4 for S3, as far as a check needs it: requests without a query.

https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html
"""

import hashlib
import hmac
from datetime import datetime, timezone
from urllib.parse import quote, urlsplit

from .loopback import Request


def signed(request: Request, exports: dict[str, str]) -> Request:
    """The request with the headers that prove who sends it, by the keys among the export variables."""
    now = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    url = urlsplit(request.url)
    content = hashlib.sha256(request.body or b"").hexdigest()
    headers = {"host": url.netloc, "x-amz-content-sha256": content, "x-amz-date": now}
    names = ";".join(headers)
    lines = "".join(f"{name}:{value}\n" for name, value in headers.items())
    canonical = "\n".join([request.method or "GET", quote(url.path, safe="/~"), "", lines, names, content])
    scope = f"{now[:8]}/{exports['AWS_REGION']}/s3/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", now, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = f"AWS4{exports['AWS_SECRET_ACCESS_KEY']}".encode()
    for part in scope.split("/"):
        key = _mac(key, part)
    credential = f"Credential={exports['AWS_ACCESS_KEY_ID']}/{scope}"
    authorization = f"AWS4-HMAC-SHA256 {credential},SignedHeaders={names},Signature={_mac(key, text).hex()}"
    return Request(request.url, request.body, request.method, headers | {"authorization": authorization})


def _mac(key: bytes, text: str) -> bytes:
    return hmac.new(key, text.encode(), hashlib.sha256).digest()
