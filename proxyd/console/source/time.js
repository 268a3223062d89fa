// Times as people read them: the year first, in the viewer's own zone, and which zone that is.

const two = (number) => String(number).padStart(2, "0");

function local(at) {
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}T${two(at.getHours())}:${two(at.getMinutes())}`;
}

function zone(at) {
  const ahead = -at.getTimezoneOffset(), size = Math.abs(ahead);
  return ahead ? `${ahead < 0 ? "-" : "+"}${two(Math.floor(size / 60))}:${two(size % 60)}` : "UTC";
}

export function stamp(at) {
  return `${local(at).replace("T", " ")}:${two(at.getSeconds())} ${zone(at)}`;
}

// What pages say in UTC they say in the viewer's zone; what they said is told on hover.
export function showTimes(root) {
  for (const element of root.querySelectorAll("time[datetime]")) {
    element.title = element.textContent;
    element.textContent = stamp(new Date(element.dateTime));
  }
}

// Fields are filled in in the viewer's zone, and sent in UTC, as they are where there is no script.
export function takeTimes() {
  for (const field of document.querySelectorAll('input[type="datetime-local"]')) {
    if (field.defaultValue) field.value = local(new Date(`${field.defaultValue}Z`));
    field.form.addEventListener("formdata", ({ formData }) => {
      if (field.value) formData.set(field.name, new Date(field.value).toISOString().slice(0, 16));
    });
  }
  for (const element of document.querySelectorAll("[data-zone]")) element.textContent = "your time";
  for (const element of document.querySelectorAll('[data-said="zone"]')) {
    const name = Intl.DateTimeFormat().resolvedOptions().timeZone;
    if (zone(new Date()) !== "UTC") element.textContent = `Times are yours, ${name}; point at one for UTC.`;
  }
}
