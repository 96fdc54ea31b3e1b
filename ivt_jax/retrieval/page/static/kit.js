// What the scripts of the pages share: elements, and questions to the server.

export const $ = (id) => document.getElementById(id);

export function element(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
}

export class Refused extends Error {
  constructor(message, status) {
    super(message);
    this.status = status; // 0: no answer at all
  }
}

export async function ask(address, options = {}) {
  let response;
  try {
    response = await fetch(address, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refused("Is it still running? Its terminal may say why it stopped.", 0);
  }
  if (response.ok) return response.json();
  const body = await response.json().catch(() => ({}));
  throw new Refused(body.error ?? `The server answered with ${response.status}.`, response.status);
}
