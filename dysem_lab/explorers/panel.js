// The Python below an explorer, with the buttons to copy it and to save the figure.
// The browser makes the file, out of one message: a link that holds a figure of 5 MB is refused by
// browsers, and would travel with every move of a slider.
function render({ model, el }) {
  const row = document.createElement("div");
  row.className = "dysem-take";
  const label = document.createElement("label");
  label.textContent = "The same in Python";
  const lines = document.createElement("textarea");
  lines.readOnly = true;
  lines.spellcheck = false;
  label.append(lines);
  const copy = document.createElement("button");
  copy.textContent = "Copy Python";
  const save = document.createElement("button");
  save.textContent = "Download figure";
  const said = document.createElement("span");
  said.setAttribute("role", "status");
  const say = (sentence) => {
    said.textContent = sentence;
    setTimeout(() => { if (said.textContent === sentence) said.textContent = ""; }, 5000);
  };
  // Plotly measures its cell when it draws, which may be before the cell is shown or in the middle
  // of a change of theme, and it keeps that width where the next view has another height. So what
  // counts, whenever it has drawn and whenever the cell changes, is whether the figure fills it.
  let watched = null, tried = "";
  const fit = () => {
    const drawn = watched?.querySelector(".main-svg");
    if (!drawn || !watched.clientWidth) return;
    const [wide, room] = [drawn, watched].map((one) => one.getBoundingClientRect().width);
    if (Math.abs(wide - room) <= 1) { tried = ""; return; }
    if (tried === `${wide} ${room}`) return; // plotly has its reasons
    tried = `${wide} ${room}`;
    delete watched.layout.width;
    window.dispatchEvent(new Event("resize"));
  };
  const whole = () => { // a line that is too long has a scroll bar, which would cover the last one
    const bar = lines.scrollWidth > lines.clientWidth ? 1 : 0;
    lines.rows = lines.value.split("\n").length + bar;
  };
  const sizes = new ResizeObserver(() => { whole(); watch(); fit(); });
  const added = new MutationObserver(() => watch());
  // To a screen reader, ipywidgets' sliders have no names.
  const name = (panel) => {
    for (const slider of panel.querySelectorAll(".widget-slider")) {
      const label = slider.querySelector(".widget-label")?.textContent ?? "";
      for (const part of slider.querySelectorAll(".noUi-handle, .widget-readout")) {
        part.setAttribute("aria-label", label);
      }
    }
  };
  const watch = () => {
    const panel = el.closest(".dysem-panel");
    if (panel) name(panel);
    const plot = panel?.querySelector(".js-plotly-plot");
    if (panel) added.observe(panel, { childList: true, subtree: true });
    if (!plot?.on || plot === watched) return;
    watched = plot;
    sizes.observe(plot);
    plot.on("plotly_afterplot", fit);
  };
  sizes.observe(el); // it has a size once it is in the page
  const show = () => {
    lines.value = model.get("python");
    whole();
  };
  copy.onclick = () => {
    lines.select();
    say(document.execCommand("copy") ? "Copied." : "Not copied: press Ctrl+C.");
  };
  save.onclick = () => { say("Making the file …"); model.send({ wants: "figure" }); };
  const receive = (message, buffers) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([buffers[0]], { type: "text/html" }));
    link.download = message.name;
    link.click();
    say(`Saved as ${message.name}.`);
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  };
  model.on("change:python", show);
  model.on("msg:custom", receive);
  row.append(label, copy, save, said);
  el.append(row);
  show();
  return () => {
    model.off("change:python", show);
    model.off("msg:custom", receive);
    sizes.disconnect();
    added.disconnect();
  };
}
export default { render };
