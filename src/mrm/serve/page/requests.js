// Requests to the service of this page, and to nothing else.

import { $, asSentence, showMessage } from "./elements.js";

const MAX_RETRIES = 6;  // of a request that a busy service refuses

export const service = { about: null, token: "" };

export const can = (capability) => service.about.capabilities.includes(capability);

export class Refused extends Error {}

/** The answer to a request, as JSON or as a blob. A field may have several values. */
export async function request(path, fields, { signal, as = "json" } = {}) {
  const body = fields && new FormData();
  for (const [name, values] of Object.entries(fields || {})) {
    for (const value of [values].flat()) body.append(name, value);
  }
  const headers = service.token ? { Authorization: `Bearer ${service.token}` } : {};
  for (let retries = 0; ; retries += 1) {
    const answer = await fetch(path, { method: body ? "POST" : "GET", body, headers, signal }).catch((error) => {
      if (error.name === "AbortError") throw error;
      throw new Refused("the service does not answer; is it still running?");
    });
    if (answer.status === 503 && retries < MAX_RETRIES) {
      const seconds = Number(answer.headers.get("Retry-After")) || 1;
      await new Promise((resolve) => setTimeout(resolve, 1000 * seconds * (0.5 + Math.random()) * 1.5 ** retries));
      continue;
    }
    if (answer.ok && as === "blob") return answer.blob();
    const content = await answer.json().catch(() => ({ error: `the service answered ${answer.status}` }));
    if (answer.status === 401) {
      $("token").hidden = false;
      throw new Refused(service.token ? "this is not the token of this service" : "");  // nothing is wrong before one is given
    }
    if (!answer.ok) throw new Refused(content.error || `the service answered ${answer.status}`);
    return content;
  }
}

/** Run `work` and show its error in the element `place`; an error of work that was stopped is of no interest. */
export async function attempt(place, work) {
  showMessage(place, "");
  try {
    await work();
  } catch (error) {
    if (error.name === "AbortError") return;
    if (!(error instanceof Refused)) console.error(error);
    showMessage(place, error instanceof Refused ? asSentence(error.message) : "the page failed; reload it");
  }
}

/** A listener that runs a button's work once at a time. */
export function onceAtATime(button, place, work) {
  return async (event) => {
    event.preventDefault();
    button.disabled = true;
    await attempt(place, work);
    button.disabled = false;
  };
}
