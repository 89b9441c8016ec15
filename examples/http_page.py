"""HTTP page: a directory's index.html, and what belongs to it, for a browser.

    python -m pyloop.examples.http_page                  # the current directory
    python -m pyloop.examples.http_page site --port 0    # another one, on a free port

Then open the address it prints. What HTTP asks of such a server is in _http.py. Here:

- GET and HEAD, else 405. A path that ends with `/` means the index.html there.
- Only plain files inside the directory are served, of at most MAX_FILE bytes, else 404. There is
  no way out: not by `..`, percent-encoded or not, and not by a symbolic link. Names that start
  with a dot are not served.
- Text is served as UTF-8. Files are read in a thread: a slow disk holds up nobody.
"""

import asyncio
import mimetypes
import sys
from http import HTTPStatus
from pathlib import Path
from urllib.parse import unquote

from pyloop.examples._cli import options, run_program, seconds
from pyloop.examples._http import PATIENCE, HTTPError, Request, Response, bad_request, serve_http

MAX_FILE = 8 * 1024 * 1024  # bytes; each response is in memory as a whole


class Site:
    """The files below one directory."""

    def __init__(self, directory: Path) -> None:
        self.root = directory.resolve(strict=True)
        if not self.root.is_dir():
            raise NotADirectoryError(f"{directory} is not a directory")

    async def respond(self, request: Request) -> Response:
        if request.method not in ("GET", "HEAD"):
            raise HTTPError(HTTPStatus.METHOD_NOT_ALLOWED, Allow="GET, HEAD")
        return await asyncio.to_thread(self.load, request.path)

    def load(self, path: str) -> Response:
        """Return the file that `path` means; raises HTTPError unless it can be served."""
        file = self.find(path)
        try:
            with file.open("rb") as stream:
                body = stream.read(MAX_FILE + 1)
        except (FileNotFoundError, PermissionError):
            raise HTTPError(HTTPStatus.NOT_FOUND) from None
        if len(body) > MAX_FILE:
            raise HTTPError(HTTPStatus.NOT_FOUND, f"the file has more than {MAX_FILE} bytes")
        kind, encoding = mimetypes.guess_type(file.name)
        if kind is None or encoding is not None:
            kind = "application/octet-stream"
        if kind.startswith("text/"):
            kind += "; charset=utf-8"
        return Response(body, kind)

    def find(self, path: str) -> Path:
        """Return the plain file inside the directory that `path` means, or raise HTTPError."""
        try:
            names = unquote(path, errors="strict").split("/")
        except UnicodeDecodeError:
            raise bad_request("the path is not UTF-8") from None
        if names[0] or any("\0" in name for name in names):
            raise bad_request("malformed path")
        if not names[-1]:
            names[-1] = "index.html"
        if any(name.startswith(".") for name in names):
            raise HTTPError(HTTPStatus.NOT_FOUND)
        try:
            file = self.root.joinpath(*filter(None, names)).resolve(strict=True)
        except (OSError, RuntimeError):  # also a name that is too long, links that go in circles
            raise HTTPError(HTTPStatus.NOT_FOUND) from None
        # A FIFO, too, is no file: to open it would wait until somebody writes.
        if not file.is_relative_to(self.root) or not file.is_file():
            raise HTTPError(HTTPStatus.NOT_FOUND)
        return file


def main() -> int:
    parser = options("http_page", "A web server for the files of one directory.", port=8000)
    parser.add_argument("directory", nargs="?", type=Path, default=Path(), help="default: this one")
    parser.add_argument(
        "--patience", type=seconds, default=PATIENCE, metavar="SECONDS", help="default: %(default)g"
    )
    args = parser.parse_args()

    async def server() -> None:
        await serve_http(
            "HTTP page",
            Site(args.directory).respond,
            host=args.host,
            port=args.port,
            patience=args.patience,
        )

    return run_program(parser, server(), verbose=args.verbose)


if __name__ == "__main__":
    sys.exit(main())
