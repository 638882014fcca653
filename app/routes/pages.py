"""The page at the root, for people; programs that ask for JSON get the addresses of the rest."""

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse

from app import __version__
from app.bundle.manifest import DATA

router = APIRouter(include_in_schema=False)

_PAGE = (DATA / "pages" / "index.html").read_text(encoding="utf-8")


@router.get("/")
async def root(request: Request) -> Response:
    """Show the page to try the service, or its addresses."""
    if "text/html" in request.headers.get("accept", ""):
        return HTMLResponse(_PAGE)
    return JSONResponse(
        {"message": "Image classification service", "version": __version__, "docs": "/docs", "health": "/health/ready"}
    )
