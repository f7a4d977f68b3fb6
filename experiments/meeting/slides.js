"use strict";
{
  const slides = [...document.querySelectorAll(".slide")];
  let at = 0;
  const show = (n) => {
    at = Math.max(0, Math.min(slides.length - 1, n));
    slides.forEach((slide, i) => slide.classList.toggle("current", i === at));
    document.getElementById("place").textContent = `${at + 1} / ${slides.length}`;
    location.hash = at + 1;
    scrollTo(0, 0);
    slides[at].focus({ preventScroll: true }); // so that screen readers read it
  };
  const notes = () => {
    const shown = document.body.classList.toggle("with-notes");
    document.getElementById("notes").setAttribute("aria-pressed", shown);
  };
  const asked = () => show((parseInt(location.hash.slice(1)) || 1) - 1);
  const step = { ArrowRight: 1, ArrowDown: 1, PageDown: 1, " ": 1, ArrowLeft: -1, ArrowUp: -1, PageUp: -1 };
  const ends = { Home: 0, End: slides.length - 1 };

  addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey) return;
    if (event.key === " " && event.target.tagName === "BUTTON") return; // it presses the button
    if (event.key in step) show(at + (event.shiftKey ? -1 : 1) * step[event.key]);
    else if (event.key in ends) show(ends[event.key]);
    else if (event.key.toLowerCase() === "n") return notes();
    else return;
    event.preventDefault();
  });
  let from = null; // where one finger began; two fingers zoom
  addEventListener("touchstart", ({ touches }) => { from = touches.length === 1 ? touches[0] : null; }, { passive: true });
  addEventListener("touchend", ({ changedTouches: [to] }) => {
    const [x, y] = from ? [to.clientX - from.clientX, to.clientY - from.clientY] : [0, 0];
    from = null;
    if (Math.abs(x) > 50 && Math.abs(x) > 2 * Math.abs(y)) show(at - Math.sign(x));
  });
  document.getElementById("back").addEventListener("click", () => show(at - 1));
  document.getElementById("on").addEventListener("click", () => show(at + 1));
  document.getElementById("notes").addEventListener("click", notes);
  addEventListener("hashchange", asked);
  document.body.classList.add("one-by-one");
  asked();
}
