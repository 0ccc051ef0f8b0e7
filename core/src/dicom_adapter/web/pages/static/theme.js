// Set the colours before the first paint. The choice is kept in this browser; without one, the system decides.
(function () {
  "use strict";
  var chosen = null;
  try { chosen = localStorage.getItem("theme"); } catch (_refused) { /* storage is disabled */ }
  if (chosen === "dark" || chosen === "light") { document.documentElement.dataset.theme = chosen; }
})();
