// The line of Python below an explorer, with the buttons to copy it and to save the figure.
// The browser makes the file, out of one message: a link that holds a figure of 5 MB is refused by
// browsers, and would travel with every move of a slider.
function render({ model, el }) {
  const row = document.createElement("div");
  row.className = "dysem-take";
  const label = document.createElement("label");
  label.textContent = "Python";
  const line = document.createElement("input");
  line.readOnly = true;
  line.setAttribute("aria-label", "Python that reproduces this view");
  label.append(line);
  label.style.cssText = "display: flex; flex: 1 1 24rem; gap: 6px; align-items: center";
  const copy = document.createElement("button");
  copy.textContent = "Copy as Python";
  const save = document.createElement("button");
  save.textContent = "Download figure";
  // Plotly measures its cell when it draws, which may be before the cell is shown or in the middle
  // of a change of theme, and it keeps that width where the next view has another height. So what
  // counts is whether the figure fills its cell now.
  const fit = () => {
    const plot = el.closest(".dysem-panel")?.querySelector(".js-plotly-plot");
    const drawn = plot?.querySelector(".main-svg");
    if (!drawn || !plot.clientWidth) return;
    const gap = drawn.getBoundingClientRect().width - plot.getBoundingClientRect().width;
    if (Math.abs(gap) <= 1) return;
    delete plot.layout.width;
    window.dispatchEvent(new Event("resize"));
  };
  const fitting = setInterval(fit, 250);
  const show = () => { line.value = model.get("python"); };
  copy.onclick = () => { line.select(); document.execCommand("copy"); };
  save.onclick = () => model.send({ wants: "figure" });
  const receive = (message, buffers) => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([buffers[0]], { type: "text/html" }));
    link.download = message.name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  };
  model.on("change:python", show);
  model.on("msg:custom", receive);
  row.append(label, copy, save);
  el.append(row);
  show();
  return () => {
    model.off("change:python", show);
    model.off("msg:custom", receive);
    clearInterval(fitting);
  };
}
export default { render };
