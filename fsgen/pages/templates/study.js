"use strict";
(() => {
  const facts = JSON.parse(document.getElementById("facts").textContent);
  const rounds = [...document.querySelectorAll(".round")];
  const intro = document.getElementById("intro");
  const outcome = document.getElementById("outcome");
  const answers = [];
  let current = -1; // the round on the screen
  let since = 0; // when it was shown

  // One byte a round; an odd number of bits: the generated image is on the left.
  const truths = [...atob(facts.key)].map((letter) => {
    let odd = 0;
    for (let bits = letter.charCodeAt(0); bits; bits >>= 1) odd ^= bits & 1;
    return odd ? "left" : "right";
  });
  const percent = (share) => `${Math.round(share * 100)}%`;

  function next() {
    (current < 0 ? intro : rounds[current]).hidden = true;
    current += 1;
    if (current === rounds.length) return finish();
    rounds[current].hidden = false;
    rounds[current].querySelector("h2").focus();
    since = performance.now();
  }

  function choose(side) {
    if (current < 0 || current >= rounds.length) return;
    const truth = truths[current];
    const milliseconds = Math.round(performance.now() - since);
    answers.push({ round: current + 1, choice: side, truth, fooled: side !== truth, milliseconds });
    next();
  }

  function results() {
    const fooled = answers.filter((answer) => answer.fooled).length;
    return {
      schema: facts.schema,
      title: facts.title,
      date: new Date().toISOString(),
      rounds: answers,
      fooled,
      fooling_rate: fooled / answers.length,
      interval: facts.intervals[fooled],
    };
  }

  function finish() {
    const found = results();
    const [low, high] = found.interval;
    const heading = document.getElementById("outcome-title");
    heading.textContent = `Fooling rate ${percent(found.fooling_rate)}`;
    document.getElementById("interval").textContent =
      `In ${found.fooled} of ${answers.length} rounds the generated image was taken for real. ` +
      `The exact binomial 95% interval is ${percent(low)} to ${percent(high)}.`;
    document.getElementById("review").append(...answers.map(reviewed));
    outcome.hidden = false;
    heading.focus();
  }

  function reviewed(answer) {
    const item = document.createElement("li");
    const both = document.createElement("div");
    both.className = "both";
    const pictures = rounds[answer.round - 1].querySelectorAll("img");
    ["left", "right"].forEach((side, index) => {
      const figure = document.createElement("figure");
      const picture = pictures[index].cloneNode();
      const caption = document.createElement("figcaption");
      const kind = side === answer.truth ? "generated" : "real";
      figure.className = kind;
      picture.alt = `${kind}, on the ${side}`;
      caption.textContent = kind + (side === answer.choice ? ", your choice" : "");
      figure.append(picture, caption);
      both.append(figure);
    });
    const verdict = document.createElement("p");
    verdict.className = answer.fooled ? "fooled" : "";
    verdict.textContent =
      `${answer.round}. ${answer.fooled ? "Fooled" : "Found"} after ${(answer.milliseconds / 1000).toFixed(1)} s`;
    item.append(both, verdict);
    return item;
  }

  function save() {
    const text = JSON.stringify(results(), null, 2) + "\n";
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    link.download = `study ${facts.title}`.replace(/[^A-Za-z0-9]+/g, "-").replace(/^-|-$/g, "") + ".json";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    document.getElementById("saved").textContent = `Saved as ${link.download}`;
  }

  document.getElementById("start").addEventListener("click", next);
  document.getElementById("save").addEventListener("click", save);
  for (const button of document.querySelectorAll(".choices button")) {
    // The second half of a double click would answer the next round before it is seen.
    button.addEventListener("click", (event) => event.detail > 1 || choose(button.dataset.side));
  }
  document.addEventListener("keydown", (event) => {
    if (event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
    const side = { ArrowLeft: "left", ArrowRight: "right" }[event.key];
    if (!side || current < 0 || current >= rounds.length) return;
    event.preventDefault();
    choose(side);
  });
})();
