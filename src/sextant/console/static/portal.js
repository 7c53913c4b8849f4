// What the pages do beyond HTML: copy buttons, charts, and tokens that come in an address's fragment.
"use strict";

(() => {
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function axes(scales) {
    const grid = { stroke: style("--line"), width: 1 };
    const ink = style("--soft");
    const days = (_plot, ticks) => ticks.map((at) => (at % 86400 ? "" : iso(at).slice(5)));
    const found = [{ stroke: ink, grid: { show: false }, ticks: grid, font: "12px system-ui", values: days }];
    scales.forEach((scale, index) => {
      found.push({
        scale, stroke: ink, side: index ? 1 : 3, size: 62, font: "12px system-ui",
        grid: index ? { show: false } : grid, ticks: grid,
        values: (_plot, ticks) => ticks.map((tick) => short(tick)),
      });
    });
    return found;
  }

  function iso(at) {
    return new Date(at * 1000).toISOString().slice(0, 10);
  }

  function short(value) {
    if (value === null || value === undefined) return "–";
    return new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 4 }).format(value);
  }

  function draw(figure) {
    const place = figure.querySelector(".plot");
    const told = JSON.parse(figure.dataset.chart);
    const scales = [...new Set(told.series.map((one) => one.scale))];
    const colours = [style("--one"), style("--two"), style("--three")];
    const series = told.series.map((one, index) => ({
      label: one.label, scale: one.scale, stroke: colours[index % 3], width: 2,
      fill: told.series.length === 1 ? colours[0] + "33" : undefined,
      points: { show: told.days.length < 3 },
      value: (_plot, value) => short(value),
    }));
    const days = told.days.map((day) => Date.parse(day + "T00:00:00Z") / 1000);
    place.replaceChildren();
    figure.plot = new uPlot({
      width: Math.max(place.clientWidth, 240), height: 240, legend: { live: true },
      scales: Object.fromEntries([["x", { time: true }], ...scales.map((one) => [one, { range: span }])]),
      tzDate: (at) => uPlot.tzDate(new Date(at * 1000), "Etc/UTC"),
      axes: axes(scales),
      series: [{ label: figure.dataset.day, value: (_plot, at) => (at === null ? "–" : iso(at)) }, ...series],
    }, [days, ...told.series.map((one) => one.values)], place);
  }

  function span(_plot, _least, most) {
    return [0, most > 0 ? most * 1.1 : 1];
  }

  function drawAll() {
    if (typeof uPlot === "undefined") return;
    document.querySelectorAll("figure[data-chart]").forEach(draw);
  }

  async function copy(button) {
    const label = button.textContent;
    try {
      await navigator.clipboard.writeText(button.dataset.copy);
    } catch {  // without TLS browsers give no clipboard: select the text, so that a key press copies it
      const field = button.parentElement.querySelector("input, pre");
      if (field && field.select) field.select();
      else if (field) getSelection().selectAllChildren(field);
      if (!document.execCommand("copy")) return;
    }
    button.textContent = button.dataset.done;
    setTimeout(() => { button.textContent = label; }, 2000);
  }

  function takeFragment(form) {
    const text = location.hash.slice(1);
    if (!text) return;
    const given = new URLSearchParams(text);
    const token = given.get("token") || (text.includes("=") ? "" : decodeURIComponent(text));
    if (token) form.elements.token.value = token;
    if (given.get("email") && form.elements.email) form.elements.email.value = given.get("email");
    history.replaceState(null, "", location.pathname + location.search);
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-copy]");
    if (button) copy(button);
  });
  document.addEventListener("focusin", (event) => {
    if (event.target.matches(".secret input")) event.target.select();
  });
  document.addEventListener("htmx:after:swap", drawAll);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth === width) return;
    width = innerWidth;
    drawAll();
  });
  document.querySelectorAll("form[data-fragment]").forEach(takeFragment);
  document.documentElement.classList.add("scripted");
  drawAll();
})();
