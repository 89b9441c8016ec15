"""Subjects: which student takes which subjects, over an HTTP interface.

    python -m pyloop.examples.subjects
    curl http://127.0.0.1:8000/subjects/7 -d '{"subject": "Algebra"}'
    curl http://127.0.0.1:8000/subjects/7

`/subjects/<id>` is all there is; `<id>` is the student's number. GET returns
`{"student": 7, "subjects": ["Algebra"]}`, with no subjects for one who takes none. POST takes a
JSON object with a `subject`, adds it unless it is there, and returns the same as GET. Other paths
are 404, other methods 405, a body that is no such object 400, and all else that HTTP asks of a
server is in _http.py: 431 for long lines and many headers, 500 when this program has a mistake.

Everything is kept in memory and lost at the end, so its size is bounded: 507 for one student too
many or one subject too many.
"""

import json
import re
import sys
from http import HTTPStatus

from pyloop.examples._cli import options, run_program, seconds
from pyloop.examples._http import PATIENCE, HTTPError, Request, Response, bad_request, serve_http

MAX_STUDENTS = 10_000
MAX_SUBJECTS = 100  # of one student
MAX_NAME = 100  # characters

PATH = re.compile(r"/subjects/([0-9]{1,18})")


class Subjects:
    """The interface, and what it is about."""

    def __init__(self) -> None:
        self.of: dict[int, list[str]] = {}

    async def respond(self, request: Request) -> Response:
        match = PATH.fullmatch(request.path)
        if match is None:
            raise HTTPError(HTTPStatus.NOT_FOUND)
        student = int(match[1])
        if request.method in ("GET", "HEAD"):
            status = HTTPStatus.OK
        elif request.method == "POST":
            self.add(student, subject_in(request.body))
            status = HTTPStatus.CREATED
        else:
            raise HTTPError(HTTPStatus.METHOD_NOT_ALLOWED, Allow="GET, HEAD, POST")
        answer = {"student": student, "subjects": self.of.get(student, [])}
        return Response(json.dumps(answer).encode() + b"\n", "application/json", status)

    def add(self, student: int, subject: str) -> None:
        """Add a subject unless it is there; raises HTTPError when there is no room."""
        subjects = self.of.get(student, [])
        if subject in subjects:
            return
        if len(subjects) == MAX_SUBJECTS:
            raise HTTPError(HTTPStatus.INSUFFICIENT_STORAGE, "the student takes too many subjects")
        if not subjects and len(self.of) == MAX_STUDENTS:
            raise HTTPError(HTTPStatus.INSUFFICIENT_STORAGE, "there are too many students")
        self.of[student] = [*subjects, subject]


def subject_in(body: bytes) -> str:
    """Return the subject that a POST wants to add; raises HTTPError unless it has one."""
    try:
        value = json.loads(body.decode())
    except (ValueError, RecursionError):  # also UnicodeDecodeError
        raise bad_request("the body is not JSON") from None
    subject = value.get("subject") if isinstance(value, dict) else None
    if not isinstance(subject, str) or not subject.isprintable():
        raise bad_request('the body is not like {"subject": "Algebra"}')
    if not 0 < len(subject.strip()) <= MAX_NAME:
        raise bad_request(f"a subject's name has 1 to {MAX_NAME} characters")
    return subject.strip()


def main() -> int:
    parser = options("subjects", "An HTTP interface to the subjects of students.", port=8000)
    parser.add_argument(
        "--patience", type=seconds, default=PATIENCE, metavar="SECONDS", help="default: %(default)g"
    )
    args = parser.parse_args()
    server = serve_http(
        "Subjects", Subjects().respond, host=args.host, port=args.port, patience=args.patience
    )
    return run_program(parser, server, verbose=args.verbose)


if __name__ == "__main__":
    sys.exit(main())
