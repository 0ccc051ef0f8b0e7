// Sign in with a token. The session is in a cookie that scripts cannot read.

// Only a path of this server: an address such as //example.com would lead elsewhere.
const isOwnPath = (text) => /^\/(?![/\\])/.test(text || "") && !/[\u0000-\u001f\\]/.test(text);

export async function signIn(form) {
  const problem = form.querySelector(".problem");
  const input = form.querySelector("input");
  const button = form.querySelector("button");
  problem.hidden = true;
  button.disabled = true;
  try {
    const response = await fetch("/api/session", {
      method: "POST",
      headers: { "Content-Type": "application/json", Accept: "application/json" },
      body: JSON.stringify({ token: input.value }),
      credentials: "same-origin",
    });
    if (response.ok) {
      location.assign(isOwnPath(form.dataset.next) ? form.dataset.next : "/");
      return;
    }
    const isWrong = response.status === 401;
    problem.textContent = isWrong ? "This token is not valid." : (await response.json()).detail;
  } catch (_failure) {
    problem.textContent = "The service does not answer.";
  }
  problem.hidden = false;
  button.disabled = false;
  input.select();
}
