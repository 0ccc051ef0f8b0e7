import { signIn } from "./session.js";

document.getElementById("sign-in").addEventListener("submit", (event) => {
  event.preventDefault();
  signIn(event.target);
});
