// Light or dark: the reader's choice if one was made, else what the system prefers. Runs before the first paint.
"use strict";
(() => {
  const KEY = "tidemill-theme";
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");

  function chosen() {
    try {
      return localStorage.getItem(KEY);
    } catch {
      return null; // Storage may be forbidden; then the system decides.
    }
  }

  function apply() {
    const choice = chosen();
    root.dataset.theme = choice === "dark" || choice === "light" ? choice : system.matches ? "dark" : "light";
    dispatchEvent(new Event("themechange"));
  }

  function label(button) {
    const other = root.dataset.theme === "dark" ? "light" : "dark";
    button.textContent = other === "dark" ? "Dark" : "Light";
    button.setAttribute("aria-label", `Switch to ${other} colours`);
  }

  apply();
  system.addEventListener("change", apply);
  addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    label(button);
    addEventListener("themechange", () => label(button));
    button.addEventListener("click", () => {
      try {
        localStorage.setItem(KEY, root.dataset.theme === "dark" ? "light" : "dark");
        apply();
      } catch {
        root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
        dispatchEvent(new Event("themechange"));
      }
    });
  });
})();
