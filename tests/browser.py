"""A page in headless Chromium, in frames of several widths and color schemes, and what a script finds in each."""

import html
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")
needed = pytest.mark.skipif(not CHROMIUM, reason="no Chromium is installed: apt-get install chromium")
FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--dump-dom"]
FLAGS += ["--disable-background-networking", "--host-resolver-rules=MAP * ~NOTFOUND"]
FLAGS += ["--window-size=1400,900", "--virtual-time-budget=20000"]
WATCH = """<script>window.wrong = [];
addEventListener("error", event => wrong.push(String(event.message)));
addEventListener("unhandledrejection", event => wrong.push(String(event.reason)));
addEventListener("securitypolicyviolation", event => wrong.push("blocked: " + event.blockedURI));</script>"""
# Contrast by WCAG 2.1 of each text that is shown, and how far the page is wider than its frame.
LOOK = """
async function look(view) {
  const page = view.document, found = {};
  for (const one of page.querySelectorAll("details")) one.open = true;
  await new Promise(done => setTimeout(done, 2000));
  const level = color => color.map(c => (c /= 255) <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const rgba = text => { const [r, g, b, a = 1] = text.match(/[\\d.]+/g).map(Number); return { rgb: [r, g, b], a }; };
  const texts = page.createTreeWalker(page.body, 4);
  found.faint = new Set();
  found.texts = 0;
  for (let text; (text = texts.nextNode());) {
    const parent = text.parentElement, style = view.getComputedStyle(parent);
    if (!text.data.trim() || !parent.getClientRects().length || parent.closest("script, noscript, select")) continue;
    let behind = parent;
    while (behind && rgba(view.getComputedStyle(behind).backgroundColor).a === 0) behind = behind.parentElement;
    const ground = rgba(view.getComputedStyle(behind ?? page.body).backgroundColor).rgb;
    const ink = rgba(parent.closest("svg") ? style.fill : style.color).rgb;
    const [low, high] = [level(ground), level(ink)].sort((a, b) => a - b), contrast = (high + 0.05) / (low + 0.05);
    found.texts++;
    if (contrast < 4.5) found.faint.add(`${contrast.toFixed(2)} ${parent.tagName} ${text.data.trim().slice(0, 40)}`);
  }
  found.faint = [...found.faint];
  found.ground = view.getComputedStyle(page.body).backgroundColor;
  found.over = page.documentElement.scrollWidth - page.documentElement.clientWidth;
  found.blank = [...page.images].filter(image => !image.naturalWidth).length;
  const asked = view.performance.getEntriesByType("resource").map(one => one.name);
  found.requests = asked.filter(name => !/^(data|blob):/.test(name));
  found.wrong = view.wrong;
  return found;
}
"""


def look(page: str, folder: Path, frames: list[tuple[int, str]], script: str = "") -> list[dict[str, Any]]:
    """Show `page` in frames of (width, light or dark) and return what `look` and then `script(view)` find in each.

    `script` is the body of an asynchronous JavaScript function of the frame's `view` (its window).
    """
    text = json.dumps(page.replace("<head>", f"<head>{WATCH}", 1)).replace("<", "\\u003c")
    (folder / "frames.html").write_text(
        f"""<!DOCTYPE html><meta charset="utf-8"><body><script>{LOOK}
async function script(view) {{ {script} }}
async function main() {{
  const all = [];
  for (const [width, scheme] of {json.dumps(frames)}) {{
    const frame = document.createElement("iframe");
    frame.style = `width: ${{width}}px; height: 900px; border: 0; color-scheme: ${{scheme}}`;
    frame.srcdoc = {text};
    document.body.append(frame);
    await new Promise(done => frame.onload = done);
    all.push({{ ...await look(frame.contentWindow), script: await script(frame.contentWindow) }});
    frame.remove();
  }}
  document.body.textContent = "FOUND" + JSON.stringify(all) + "END";
}}
main().catch(error => document.body.textContent = "FOUND" + JSON.stringify([{{ wrong: String(error) }}]) + "END");
</script>"""
    )
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", f"file://{folder / 'frames.html'}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return list(json.loads(html.unescape(done.stdout.rpartition("FOUND")[2].partition("END")[0])))
