"""The lab's translation page: a real Gradio app that looks answers up instead of running a model.

It behaves as the real image does: one job at a time, a pause for each, memory held on its card. Environment
variables make it fail in the ways a real one can; docs/lab.md lists them.
"""

import os
import re
import tempfile
import threading
import time
from pathlib import Path

import gradio as gr

PHRASES = (
    ("It's on the house.", "这是免费赠送的。"),
    ("Good morning.", "早上好。"),
    ("Where is the railway station?", "火车站在哪里？"),
    ("Practice makes perfect.", "熟能生巧。"),
    ("The early bird catches the worm.", "早起的鸟儿有虫吃。"),
    ("Knowledge is power.", "知识就是力量。"),
)
LANGUAGES = ("Chinese", "English")
TABLE = {(english, "Chinese"): chinese for english, chinese in PHRASES} | {
    (chinese, "English"): english for english, chinese in PHRASES
}


def setting(name: str, default: float = 0.0) -> float:
    """A number from the environment; empty means the default."""
    return float(os.environ.get(f"FLEET_LAB_{name}") or default)


VERSION = os.environ.get("FLEET_LAB_VERSION") or "v1"
JOB_SECONDS = setting("SLOW") or setting("JOB_SECONDS", 0.3)
DIE_AFTER = int(setting("DIE_AFTER"))
STUCK = setting("STUCK") > 0
WRONG = setting("WRONG") > 0

_jobs = 0
_jobs_lock = threading.Lock()


def translate(text: str, target_language: str) -> str:
    """One job: a phrase of the table, or the text marked with the language it was to be put into."""
    global _jobs
    with _jobs_lock:
        _jobs += 1
        number = _jobs
    while STUCK:
        time.sleep(3600)
    time.sleep(seconds_of(text))
    if DIE_AFTER and number > DIE_AFTER:
        os._exit(1)
    answer = TABLE.get((text.strip(), target_language), f"[{target_language}] {text}")
    return answer[::-1] + "?" if WRONG else answer


def seconds_of(text: str) -> float:
    """How long a job takes: as every one here, or as its text says ("... lasts 20 s")."""
    said = re.search(r"\blasts (\d+) s\b", text)
    return float(said[1]) if said else JOB_SECONDS


def document(path: str, target_language: str) -> str:
    """One job on a file that was uploaded: a file to download, made of it line by line."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    answer = Path(tempfile.mkdtemp()) / Path(path).name
    answer.write_text("".join(f"[{target_language}] {line}\n" for line in lines), encoding="utf-8")
    time.sleep(JOB_SECONDS)
    return str(answer)


def version() -> str:
    """Which version of the image answers."""
    return VERSION


def page() -> gr.Blocks:
    """The page and its endpoints: /translate, /version and /document."""
    with gr.Blocks(title=f"Hunyuan-MT {VERSION}", analytics_enabled=False) as blocks:
        gr.Markdown(f"# Hunyuan-MT\nVersion {VERSION}")
        with gr.Row():
            text = gr.Textbox(label="Text", lines=6)
            translation = gr.Textbox(label="Translation", lines=6)
        language = gr.Dropdown(list(LANGUAGES), value="Chinese", label="Target language")
        button = gr.Button("Translate", variant="primary")
        button.click(translate, [text, language], translation, api_name="translate", concurrency_limit=1)
        gr.api(version, api_name="version")
        with gr.Row():
            sent = gr.File(label="Document")
            done = gr.File(label="Document in the other language")
        send = gr.Button("Send the document")
        send.click(document, [sent, language], done, api_name="document", concurrency_limit=1)
    return blocks


def main() -> None:
    """Load as long as told, then serve."""
    while setting("NEVER_READY"):
        time.sleep(3600)
    time.sleep(setting("START_DELAY"))
    # Fonts of the page come from the machine that shows it: the lab has no other internet.
    plain = gr.themes.Default(font=["sans-serif"], font_mono=["monospace"])
    page().queue().launch(
        server_name="0.0.0.0", server_port=7860, ssr_mode=False, share=False, theme=plain, footer_links=[]
    )


if __name__ == "__main__":
    main()
