"""``mixwell play``: a local web page that mixes two pictures while one moves the controls."""

from __future__ import annotations

import argparse
import base64
import binascii
import functools
import json
import os
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import mixwell as mw
from mixwell.report.controls import changed, control, settings
from mixwell.report.page import rendered
from mixwell.report.view import SIDES, Picture, expression, look
from mixwell.train.errors import Parser, RunError
from mixwell.train.network import Network, add_options, from_options
from mixwell.train.paths import expand

ABOUT = """\
Open a local web page: drop two pictures, choose a policy and a label policy, and see what becomes of them.

  mixwell play                                          pictures only
  mixwell play runs/a                                   with the model of a run
  mixwell play weights.safetensors --model timm/NAME    with a file of weights

Nothing leaves this machine, and pictures are kept in memory only."""
LARGEST_FILE = 10 * 2**20  # bytes of a picture
LARGEST_REQUEST = 2 * 4 * LARGEST_FILE // 3 + 2**20  # two pictures in base64, and the settings
LOOPBACK = ("127.0.0.1", "localhost", "::1")
# Pages of this server load nothing from elsewhere. Gradio needs inline scripts and styles, and evaluates templates.
POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'none'"
# Routes by which Gradio stores uploads in temporary files, serves files, or fetches addresses.
CLOSED = ("/gradio_api/upload", "/gradio_api/file", "/gradio_api/proxy", "/gradio_api/component_server")
DROP = """
<label class="mixwell-drop">
<input type="file" accept="image/png,image/jpeg,image/webp,image/gif,image/bmp" aria-label="{{title}}">
{{#if value.data}}<img src="{{value.data}}" alt=""><span>{{value.name}}</span>{{else}}<span>{{hint}}</span>{{/if}}
</label>"""
READ = """
const take = (file) => {
  if (!file) return;
  if (file.size > LIMIT) { props.value = {name: file.name, size: file.size}; return; }
  const reader = new FileReader();
  reader.onload = () => { props.value = {name: file.name, data: reader.result}; };
  reader.readAsDataURL(file);
};
element.addEventListener("change", (event) => take(event.target.files[0]));
element.addEventListener("dragover", (event) => event.preventDefault());
element.addEventListener("drop", (event) => { event.preventDefault(); take(event.dataTransfer.files[0]); });
""".replace("LIMIT", str(LARGEST_FILE))


class Guard:
    """Middleware: refuses large requests and the routes in ``CLOSED``, and forbids the page to load from elsewhere."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        length = dict(scope["headers"]).get(b"content-length", b"0")
        chunked = any(name == b"transfer-encoding" for name, _ in scope["headers"])
        status = 404 if scope["path"].startswith(CLOSED) else 0
        if chunked or not length.isdigit() or int(length) > LARGEST_REQUEST:
            status = 413
        if status:
            await send({"type": "http.response.start", "status": status, "headers": []})
            await send({"type": "http.response.body", "body": b""})
            return

        async def answer(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", POLICY.encode())]
            await send(message)

        await self.app(scope, receive, answer)


def uploaded(value: Any) -> Picture | None:
    """Return the picture that the browser sent as ``{"name": ..., "data": "data:image/png;base64,..."}``.

    Raises:
        RunError: It is too large, or of another form.
    """
    if not value:
        return None
    value = json.loads(value) if isinstance(value, str) and value.startswith("{") else value
    given = value if isinstance(value, dict) else {}
    name, data = Path(str(given.get("name", ""))).name[:200], str(given.get("data", ""))
    if given.get("size") or len(data) > 4 * LARGEST_FILE // 3 + 100:
        raise RunError(f"{name} is larger than {LARGEST_FILE // 2**20} MiB: use a smaller picture")
    try:
        return Picture(name or "picture", base64.b64decode(data.partition(",")[2], validate=True))
    except binascii.Error:
        raise RunError(f"{name or 'the picture'} did not arrive whole: choose it again") from None


def shown(
    network: Network | None, source: str, anchor: Any, partner: Any, policy: str, label: str, lam: float, seed: float,
    side: float,
) -> tuple[str, str]:  # fmt: skip
    """Return the view as HTML, and the Python line that computes the same mixed image."""
    try:
        if not all(isinstance(number, int | float) for number in (lam, seed, side)):
            raise RunError("lam, seed and side must be numbers")
        found = look(uploaded(anchor), uploaded(partner), policy, label, lam, int(seed), int(side), network, source)
    except (RunError, json.JSONDecodeError) as error:
        return rendered("play.html", error=str(error)), ""
    except (MemoryError, OverflowError, RuntimeError) as error:  # settings that no computer can hold
        return rendered("play.html", error=f"this cannot be computed: {str(error)[:200]}"), ""
    return rendered("play.html", look=found, error=""), found.line


def _editor(start: Any, title: str, kind: type[mw.Value], names: list[str], first: str) -> Any:
    """Build the controls of one policy: its name, its settings, and its expression, which is returned.

    Args:
        start: The event that builds the controls of ``first``.
        title: Label of the controls.
        kind: What the expression must describe.
        names: Names to choose from.
        first: The name that is chosen at first.
    """
    import gradio as gr

    chooser = gr.Dropdown(names, value=first, label=title, elem_id=title.replace(" ", "-"))
    inside = gr.Row(elem_classes="mixwell-settings")
    text = gr.Textbox(
        repr(mw.parse(first)), label=f"{title} as an expression", info="any expression, then Enter", max_lines=3,
        elem_id=f"{title.replace(' ', '-')}-expression",
    )  # fmt: skip
    chooser.input(lambda name: repr(mw.parse(name)), chooser, text, api_visibility="private")

    def controls(name: str, written: str) -> None:
        try:
            value = expression(written, kind)
        except RunError:
            return  # the view says what is wrong
        if type(value).__name__ != name and written.partition("(")[0] in names:
            value = mw.parse(name)  # a name has just been chosen
        made = {setting: control(value, setting) for setting in settings(value)}

        def rewritten(*given: Any) -> str:
            try:
                return changed(value, dict(zip(made, given, strict=True)))
            except RunError as error:
                raise gr.Error(str(error), print_exception=False) from None

        for part in made.values():
            part.input(
                rewritten, list(made.values()), text, show_progress="hidden", trigger_mode="always_last",
                api_visibility="private",
            )  # fmt: skip

    with inside:
        triggers = [start, chooser.input, text.submit]
        gr.render(inputs=[chooser, text], triggers=triggers, show_progress="hidden")(controls)
    return text


def page(network: Network | None = None, source: str = "") -> Any:
    """Return the page as Gradio blocks.

    Args:
        network: The classifier, or None.
        source: Arguments that load it, for the Python line.
    """
    import gradio as gr

    policies = [name for name in mw.names("policy") if name not in ("LearnedMask", "OneOf", "Sometimes", "Switch")]
    labels = [name for name in mw.names("label") if name != "ObjectShare"]
    with gr.Blocks(analytics_enabled=False, title="mixwell play") as blocks:
        gr.Markdown("# mixwell play")
        with gr.Row():
            with gr.Column(scale=3, min_width=300):
                view = gr.HTML(elem_id="view")
                line = gr.Textbox(
                    label="Python that computes this mixed image", lines=3, buttons=["copy"], interactive=False,
                    elem_id="line",
                )  # fmt: skip
            with gr.Column(scale=2, min_width=300):
                with gr.Row():
                    pictures = [
                        gr.HTML(
                            None, html_template=DROP, js_on_load=READ, title=title, elem_id=title, min_width=130,
                            apply_default_css=False, hint=f"{title}: drop a picture, or choose a file",
                        )
                        for title in ("anchor", "partner")
                    ]  # fmt: skip
                lam = gr.Slider(0, 1, 0.7, step=0.01, label="lam", info="share of the anchor", elem_id="lam")
                with gr.Row():
                    seed = gr.Number(0, label="seed", precision=0, minimum=0, min_width=120, elem_id="seed")
                    side = gr.Number(
                        network.size if network else 224, label="side (pixels)", precision=0, minimum=SIDES[0],
                        maximum=SIDES[1], min_width=120,
                    )  # fmt: skip
                policy = _editor(blocks.load, "policy", mw.BatchPolicy, policies, "CutMix")
                label = _editor(blocks.load, "label policy", mw.LabelPolicy, labels, "PixelShare")
        inputs = [*pictures, policy, label, lam, seed, side]
        gr.on(
            [blocks.load, *(part.change for part in inputs)], functools.partial(shown, network, source), inputs,
            [view, line], show_progress="hidden", trigger_mode="always_last", api_name="view", concurrency_limit=4,
        )  # fmt: skip
    return blocks.queue(max_size=512)


def application(network: Network | None = None, source: str = "", host: str = LOOPBACK[0]) -> Any:
    """Return the page as an ASGI application that serves only loopback names, unless it is bound elsewhere."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    import gradio as gr
    from fastapi import FastAPI
    from fastapi.middleware.trustedhost import TrustedHostMiddleware

    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    if host in LOOPBACK:  # a page elsewhere must not reach this one under a name of its own
        app.add_middleware(TrustedHostMiddleware, allowed_hosts=list(LOOPBACK))
    app.add_middleware(Guard)
    css = Path(__file__).with_suffix(".css").read_text(encoding="utf-8")
    return gr.mount_gradio_app(
        app, page(network, source), "/", server_name=host, show_error=False, ssr_mode=False, footer_links=[], css=css,
        theme=gr.themes.Default(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
    )  # fmt: skip


def main(argv: Sequence[str]) -> None:
    """Serve the page until Ctrl-C.

    Raises:
        RunError: Gradio is not installed, or the model cannot be loaded.
    """
    parser = Parser("mixwell play", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", type=expand, nargs="?", metavar="RUN_OR_WEIGHTS", help="run directory or weights")
    add_options(parser)
    parser.add_argument("--image_size", type=int, default=0, help="side of the images (pixels) [of the run, or 224]")
    parser.add_argument("--host", default=LOOPBACK[0], help=f"address to serve at [{LOOPBACK[0]}: this machine only]")
    parser.add_argument("--port", type=int, default=7860, help="port [7860]")
    args = parser.parse_args(argv)
    if find_spec("gradio") is None:
        raise RunError("mixwell play needs Gradio: pip install 'mixwell[play]', or from a clone pip install '.[play]'")
    network, source = None, ""
    if args.network:
        network = from_options(args.network, args, args.image_size)
        source = repr(str(args.network)) + (f", {args.model!r}" if args.model else "")
        source += f", normalization=mw.{network.normalization!r}" if args.mean is not None else ""
    import uvicorn

    app = application(network, source, args.host)
    shown(network, source, None, None, "CutMix()", "PixelShare()", 0.5, 0, SIDES[0])  # so that imports are done
    print(f"mixwell play: http://{args.host}:{args.port} (stop with Ctrl-C)", flush=True)
    uvicorn.run(app, host=args.host, port=args.port, log_level="error")
