// What every part of the page uses to find, make and fill its elements.

export const $ = (id) => document.getElementById(id);

export function element(tag, properties = {}, ...children) {
  const created = Object.assign(document.createElement(tag), properties);
  created.append(...children);
  return created;
}

export function showMessage(place, text) {
  $(place).textContent = text;
  $(place).hidden = !text;
}

export const showStatus = (text) => { $("status").textContent = text; };

export const asSentence = (text) => text && `${text[0].toUpperCase()}${text.slice(1)}${/[.!?]$/.test(text) ? "" : "."}`;
