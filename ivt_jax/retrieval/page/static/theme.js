// Runs before the first paint, so that a chosen theme does not flash. Without a choice the
// browser's preference holds.
const remembered = localStorage.getItem("theme");
if (remembered) document.documentElement.dataset.theme = remembered;

function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

document.addEventListener("DOMContentLoaded", () => {
  const button = document.getElementById("theme");
  const label = () =>
    button.setAttribute("aria-label", `Switch to the ${isDark() ? "light" : "dark"} theme`);
  button.addEventListener("click", () => {
    const theme = isDark() ? "light" : "dark";
    document.documentElement.dataset.theme = theme;
    localStorage.setItem("theme", theme);
    label();
  });
  label();
});
