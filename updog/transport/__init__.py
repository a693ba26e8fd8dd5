"""HTTP for metadata and images: bounded, resumable within a run, and never silently something else.

Rules it enforces:

* every request has a connect timeout, a stall timeout and a minimum rate, but no total timeout: a large
  image over a slow network is fine, a server that sends a byte per second is not (:mod:`.rate`);
* the head of a response, and each read of its body, must complete within the stall timeout and within a
  limit of bytes, whatever they consist of: dripped headers, endless ``100 Continue`` responses and endless
  trailers are cut off (:mod:`.deadline_socket`);
* bodies are taken raw (``Accept-Encoding: identity``); an encoded response is an error, because its length
  and hash would not be those that were signed;
* an interrupted body is continued by range; status, Content-Range and total length are checked, and if a
  server ignores the range, the bytes already received are skipped, not requested again. ETag and
  Last-Modified are not compared: they differ between servers with the same bytes, and what counts are the
  signed hashes;
* a web page in place of a file is an error of the network (a captive portal), not of the repository;
* many ranges of one file are one call, which becomes one stream if the server ignores them (:mod:`.ranges`);
* after a failure, the next mirror is asked, if there is one, and the failed one comes behind the others for a
  while (:mod:`.mirrors`). A failure counts as an attempt unless its request kept the minimum rate, the wait
  before it included: a server that sends one byte and breaks off, again and again, is as useless as one that
  sends nothing. Waits grow exponentially with jitter, and ``Retry-After`` is honoured up to
  :data:`MAX_WAIT_SECONDS`;
* the caller gives the largest size it accepts; what exceeds it is cut off as
  :class:`~updog.errors.EndlessDataError`;
* a redirect is followed without reading its body, which may be endless; never to another scheme than HTTP(S),
  and never from HTTPS to HTTP;
* a request that is not a download (:meth:`HttpTransport.post`) is sent once, and a redirect is its answer;
* a configured proxy is used for every host except those in ``no_proxy``, whatever the environment says.

Exceptions of requests and urllib3 do not leave this package.
"""

from updog.transport.api import HttpAnswer, Transport, TransportSettings
from updog.transport.body import BODY_BLOCK_BYTES
from updog.transport.connection import MAX_REDIRECTS
from updog.transport.http import HttpTransport
from updog.transport.ranges import Ranges
from updog.transport.rate import MAX_WAIT_SECONDS

__all__ = [
    "BODY_BLOCK_BYTES",
    "MAX_REDIRECTS",
    "MAX_WAIT_SECONDS",
    "HttpAnswer",
    "HttpTransport",
    "Ranges",
    "Transport",
    "TransportSettings",
]
