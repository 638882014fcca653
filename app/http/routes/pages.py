"""Pages for people, which need no internet: one to try the service, and the documentation of its API."""

import base64
import hashlib
import importlib.util
import re
from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse

from app import __version__
from app.bundle.manifest import DATA

router = APIRouter(include_in_schema=False)

_PAGES = DATA / "pages"
# The package that brings Swagger UI's files; its code is not used.
_SWAGGER = "fastapi_swagger"
_INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


class _Page:
    """A page of our own, which may run and show what stands in it, and what this service sends."""

    def __init__(self, name: str, *, styles: str = "", images: str = "") -> None:
        self._text = (_PAGES / name).read_text(encoding="utf-8")
        allowed = {"script": "'self'", "style": f"'self' {styles}"}
        for kind, text in _INLINE.findall(self._text):
            allowed[kind] += f" 'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        policy = (
            "default-src 'none'",
            f"script-src {allowed['script']}",
            f"style-src {allowed['style']}",
            f"img-src 'self' {images}",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        )
        self._headers = {"Content-Security-Policy": "; ".join(policy), "Vary": "Accept"}

    def response(self) -> Response:
        """The answer that shows it."""
        return HTMLResponse(self._text, headers=self._headers)


_INDEX = _Page("index.html", images="blob:")
_DOCS = _Page("docs.html", images="data:")


@router.get("/")
async def root(request: Request) -> Response:
    """Show the page to try the service, or its addresses."""
    if "text/html" in request.headers.get("accept", ""):
        return _INDEX.response()
    return JSONResponse(
        {"message": "Image classification service", "version": __version__, "docs": "/docs", "health": "/health/ready"},
        headers={"Vary": "Accept"},
    )


@router.get("/docs")
async def docs() -> Response:
    """Show the documentation of the API."""
    return _DOCS.response()


@router.get("/docs/swagger-ui-bundle.js")
async def docs_script() -> Response:
    """Send the program of the documentation."""
    return _swagger("swagger-ui-bundle.js", "text/javascript")


@router.get("/docs/swagger-ui.css")
async def docs_style() -> Response:
    """Send the looks of the documentation."""
    return _swagger("swagger-ui.css", "text/css")


@router.get("/favicon.ico")
@router.get("/favicon.svg")
async def favicon() -> Response:
    """Send the picture that browsers ask for beside every address."""
    return FileResponse(_PAGES / "favicon.svg", media_type="image/svg+xml")


def _swagger(name: str, media_type: str) -> Response:
    found = importlib.util.find_spec(_SWAGGER)
    folder = Path(found.origin).parent if found and found.origin else _PAGES
    return FileResponse(folder / "resources" / name, media_type=media_type, headers={"Cache-Control": "max-age=3600"})
