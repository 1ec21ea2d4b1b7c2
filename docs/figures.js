// Plotly's figures of a notebook, drawn when they come near the screen.
"use strict";

function draw(box) {
  const {data, layout} = JSON.parse(box.querySelector("script").textContent);
  delete layout.width;
  layout.autosize = true;
  if (layout.legend && layout.legend.orientation === "h") {
    // Measured from the plot, it would lie elsewhere on a page of another width.
    Object.assign(layout.legend, {yref: "container", y: 0, yanchor: "bottom"});
  }
  const room = document.createElement("div"); // at least as wide as a figure has to be
  box.append(room);
  Plotly.newPlot(room, data, layout, {responsive: true, displayModeBar: false});
}

const near = new IntersectionObserver((seen) => {
  for (const {isIntersecting, target} of seen) {
    if (!isIntersecting) continue;
    near.unobserve(target);
    draw(target);
  }
}, {rootMargin: "400px"});
for (const box of document.querySelectorAll(".figure-of-plotly")) near.observe(box);
