// xterm.js makes style sheets and style attributes for itself; the pages' policy allows neither as text. A sheet gets the
// page's nonce, an attribute is set through the CSSOM, which the policy does allow (CSP 3, 6.7.3).

const nonce = document.querySelector('meta[name="style-nonce"]')?.content ?? "";
const create = document.createElement.bind(document);
document.createElement = (name, options) => {
  const element = create(name, options);
  if (name === "style") element.nonce = nonce;
  return element;
};
const setAttribute = Element.prototype.setAttribute;
Element.prototype.setAttribute = function (name, value) {
  if (name === "style") this.style.cssText = value;
  else setAttribute.call(this, name, value);
};
