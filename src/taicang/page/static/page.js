(function () {
  const data = JSON.parse(at("data").textContent);
  let shown = 0;
  function render() {
    dress();
    clear();
    at("view").replaceChildren();
    at("view").className = "grid";
    tabs(data.sections.map((section) => section.title), shown, (index) => { shown = index; render(); window.scrollTo(0, 0); });
    const fronts = {};
    data.sections[shown].parts.forEach((part) => {
      const made = draw(part, at("view"));
      if (part.kind === "points") fronts[part.title[0]] = made;
      if (part.kind === "pick" && fronts[part.of]) fronts[part.of].on("click", (point) => made([point.value[2], point.seriesName + ": " + point.value[2]]));
    });
    settle();
  }
  switches(render);
  window.taicang = { charts: () => charts, data: data };
  render();
})();
