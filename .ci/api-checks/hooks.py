"""Formats and checks for .ci/api that schemathesis does not have."""

import os

import schemathesis
from hypothesis import strategies

NETWORKS = ["192.0.2.0/24", "10.0.0.0/8", "198.51.100.128/25", "203.0.113.7/32", "2001:db8::/32", "2001:db8::1/128"]

# An address with bits after the length is no network, which a pattern cannot say.
schemathesis.openapi.format("network", strategies.sampled_from(NETWORKS))


@schemathesis.check
def changes_need_the_token(ctx, response, case):
    """Without the token, each change is refused before anything of it is read."""
    if os.environ.get("WITHOUT_TOKEN") and case.method.upper() not in ("GET", "HEAD"):
        assert response.status_code == 401, f"a change without the token is answered with {response.status_code}"


@schemathesis.check
def refusals_are_texts(ctx, response, case):
    """Each refusal is a text of whole lines, for people."""
    if response.status_code >= 400 and case.method.upper() != "HEAD":
        kind = response.headers.get("content-type", [""])[0]
        assert kind.startswith("text/plain"), f"a refusal of the type {kind!r}"
        assert response.text.endswith("\n"), f"a refusal without a line end: {response.text!r}"
