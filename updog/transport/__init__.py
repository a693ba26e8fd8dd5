"""HTTP for metadata and images: bounded, resumable within a run, and never silently something else.

Rules it enforces:

* every request has a connect time-out, a stall time-out and a minimum rate, never a total one: a large
  image over a slow line is fine, a server that drips a byte a second is not (:mod:`.pace`);
* the head of an answer, and each step of its body, has to come within the stall time-out and within so many
  bytes, whatever it consists of: dripped headers, endless ``100 Continue`` and trailers end (:mod:`.guard`);
* bodies are taken raw (``Accept-Encoding: identity``); an encoded answer is an error, because its length
  and hash would not be those that were signed;
* a broken body is continued by range; status, Content-Range, total length, ETag and Last-Modified are
  checked, and a server that ignores the range is read past the bytes already had, not asked twice;
* many ranges of one file are one call, which becomes one stream where ranges are ignored (:mod:`.ranges`);
* a failure goes to the next mirror, if there is one, and puts this one behind the others for a while
  (:mod:`.mirrors`); it counts against the tries unless its request kept the minimum rate, the wait before it
  included: a server that gives a byte and breaks off, again and again, is as useless as one that gives none;
  waits grow exponentially with jitter, and ``Retry-After`` is honoured up to :data:`MAX_WAIT_SECONDS`;
* whoever asks says the most bytes it will take; more is cut off as :class:`~updog.errors.EndlessDataError`;
* a redirect is followed without reading its body, which may have no end, never out of HTTP(S), and never
  from HTTPS to HTTP;
* a configured proxy is used for every host but the listed ones, whatever the environment says.

Foreign exceptions (requests, urllib3) end here.
"""

from updog.transport.body import BLOCK_BYTES
from updog.transport.http import HttpTransport
from updog.transport.line import MAX_REDIRECTS
from updog.transport.pace import MAX_WAIT_SECONDS
from updog.transport.port import Settings, Transport
from updog.transport.ranges import Ranges

__all__ = [
    "BLOCK_BYTES",
    "MAX_REDIRECTS",
    "MAX_WAIT_SECONDS",
    "HttpTransport",
    "Ranges",
    "Settings",
    "Transport",
]
