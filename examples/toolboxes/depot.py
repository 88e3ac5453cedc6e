"""The API of a depot, small enough to read: `python depot.py [PORT]`.

It knows its callers by their token, and does what has the same Idempotency-Key once.
"""

from __future__ import annotations

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PARCELS = {"4711": {"number": "4711", "at": "depot", "to": "home", "moves": 0}}
DONE: dict[str, dict[str, object]] = {}


class Depot(BaseHTTPRequestHandler):
    """One request."""

    def do_GET(self) -> None:
        """Show a parcel."""
        parcel = PARCELS.get(self.path.rpartition("/")[2])
        self._answer(200 if parcel else 404, parcel or {"error": "there is no such parcel"})

    def do_POST(self) -> None:
        """Send a parcel to another place."""
        wanted = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        parcel = PARCELS.get(self.path.split("/")[2])
        key = self.headers.get("Idempotency-Key", "")
        if parcel and key not in DONE:
            parcel.update(to=wanted["to"], moves=int(str(parcel["moves"])) + 1)
            DONE[key] = dict(parcel)
        self._answer(200 if parcel else 404, DONE.get(key) or {"error": "there is no such parcel"})

    def _answer(self, status: int, said: object) -> None:
        if self.headers.get("Authorization") != f"Bearer {os.environ['DEPOT_TOKEN']}":
            status, said = 401, {"error": "who are you?"}
        body = json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


if __name__ == "__main__":
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 8750
    with ThreadingHTTPServer(("127.0.0.1", port), Depot) as server:
        print(f"The depot listens on http://127.0.0.1:{server.server_port}", flush=True)
        server.serve_forever()
