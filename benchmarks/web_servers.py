"""One small page, by uvicorn or by aiohttp: ``web_servers LOOP FRAMEWORK``."""

import asyncio
import importlib
import sys
from typing import Any

from benchmarks.servers import announce, listen, settle_malloc
from benchmarks.workloads import run_asyncio

PAGE = b"Hello, world!\n" * 8


async def application(scope: Any, receive: Any, send: Any) -> None:
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(PAGE)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": PAGE})


async def serve_uvicorn() -> None:
    uvicorn = importlib.import_module("uvicorn")
    config = uvicorn.Config(application, lifespan="off", access_log=False, log_level="warning")
    listener = listen()
    announce(listener)
    await uvicorn.Server(config).serve(sockets=[listener])


async def serve_aiohttp() -> None:
    web = importlib.import_module("aiohttp.web")

    async def page(request: Any) -> Any:
        return web.Response(body=PAGE, content_type="text/plain")

    app = web.Application()
    app.router.add_get("/", page)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    listener = listen()
    # Before it is handed over: rloop takes the descriptor out of the socket.
    announce(listener)
    await web.SockSite(runner, listener).start()
    await asyncio.get_running_loop().create_future()


if __name__ == "__main__":
    settle_malloc()
    run_asyncio(sys.argv[1], {"uvicorn": serve_uvicorn, "aiohttp": serve_aiohttp}[sys.argv[2]]())
