
// One cursor over all charts of the time axis, and the figures under it in their legends.
(function () {
  var charts = Array.from(document.querySelectorAll(".chart.time")).map(function (figure) {
    var cursor = document.createElement("div");
    cursor.className = "cursor";
    var area = figure.querySelector(".plot > .area");
    area.appendChild(cursor);
    return {
      area: area,
      cursor: cursor,
      values: JSON.parse(figure.dataset.values),
      shown: figure.querySelectorAll(".legend b"),
    };
  });
  var stack = document.querySelector("[data-steps]");
  var steps = stack ? JSON.parse(stack.dataset.steps) : [];
  var end = steps.length ? steps[steps.length - 1][1] : 0;
  function text(value) {
    if (value === null) return "–";
    return value >= 1000 ? Math.round(value).toLocaleString("en") : String(Number(value.toPrecision(3)));
  }
  function show(share) {
    var at = share * end;
    var index = steps.findIndex(function (step) { return at < step[1]; });
    if (index < 0) index = steps.length - 1;
    var from = steps[index][0];
    var left = (100 * (from + steps[index][1])) / 2 / end + "%";
    var clock = Math.floor(from / 60) + ":" + String(from % 60).padStart(2, "0");
    charts.forEach(function (chart) {
      chart.cursor.style.left = left;
      chart.cursor.dataset.at = clock;
      chart.cursor.style.display = "block";
      chart.shown.forEach(function (b, line) { b.textContent = text(chart.values[line][index]); });
    });
  }
  function hide() {
    charts.forEach(function (chart) {
      chart.cursor.style.display = "none";
      chart.shown.forEach(function (b) { b.textContent = ""; });
    });
  }
  charts.forEach(function (chart) {
    chart.area.addEventListener("pointermove", function (event) {
      var box = chart.area.getBoundingClientRect();
      show(Math.min(Math.max((event.clientX - box.left) / box.width, 0), 1));
    });
    chart.area.addEventListener("pointerleave", hide);
  });
})();
