"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const lines = data.lines, emotions = data.emotions, numbers = data.dimensions, people = data.people;
  const measures = [...emotions, ...numbers]; // every one has a bar and a curve
  const $ = (id) => document.getElementById(id);
  const make = (tag, className = "", text = "", more = {}) => {
    const element = document.createElement(tag); // data goes into the page as text only
    if (className) element.className = className;
    if (text) element.textContent = text;
    for (const [name, value] of Object.entries(more)) element.setAttribute(name, value);
    return element;
  };
  const percent = (value) => `${Math.round(100 * value)} %`;
  const clock = (seconds, digits = 0) => {
    const shown = Math.max(0, digits ? Math.round(seconds * 10) / 10 : Math.floor(seconds + 1e-6));
    const whole = Math.floor(shown), pad = (value) => String(value).padStart(2, "0");
    const hours = Math.floor(whole / 3600), rest = digits ? "." + Math.round((shown - whole) * 10) : "";
    return (hours ? `${hours}:${pad(Math.floor(whole / 60) % 60)}` : Math.floor(whole / 60)) + ":" + pad(whole % 60) + rest;
  };
  const uncertain = (line) => line.emotion !== null && line.probabilities[line.emotion] < data.uncertain;
  const untold = (line) => line.emotion === null && !Object.keys(line.values).length;
  const doubtful = (line) => untold(line) || uncertain(line);
  const missing = (line) => Object.entries(line.modalities).filter(([, reason]) => reason !== null);
  const nothing = emotions.length ? "no emotion" : "no numbers";
  const allNumbers = (line) => numbers.map(({ name }) => `${name} ${line.values[name].toFixed(2)}`).join(", ");
  const sign = (line) => untold(line) ? `× ${nothing}` : line.emotion === null ? allNumbers(line) : (uncertain(line) ? "? " : "") + emotions[line.emotion].name;
  const measured = (line, index) => index < emotions.length ? line.probabilities[index] : line.values[measures[index].name];
  const share = (line, index) => { // of the bar
    const value = measured(line, index), { low = 0, high = 1 } = measures[index];
    return value === undefined ? 0 : Math.min(1, Math.max(0, (value - low) / (high - low)));
  };
  const written = (line, index) => {
    const value = measured(line, index);
    return value === undefined ? "–" : index < emotions.length ? percent(value) : value.toFixed(2);
  };

  // --- colours and patterns: an emotion can be told by either

  const colour = (measure, alpha = 1) => {
    const [red, green, blue] = measures[measure].colour;
    return `rgb(${red} ${green} ${blue} / ${alpha})`;
  };
  const strokes = [
    () => {},
    (c) => { for (let x = -8; x <= 8; x += 8) { c.moveTo(x, 8); c.lineTo(x + 8, 0); } },
    (c) => { c.rect(1, 1, 2, 2); c.rect(5, 5, 2, 2); },
    (c) => { for (let x = -8; x <= 8; x += 8) { c.moveTo(x, 0); c.lineTo(x + 8, 8); } },
    (c) => { c.moveTo(0, 2); c.lineTo(8, 2); c.moveTo(0, 6); c.lineTo(8, 6); },
    (c) => { c.moveTo(2, 0); c.lineTo(2, 8); c.moveTo(6, 0); c.lineTo(6, 8); },
    (c) => { c.moveTo(0, 0); c.lineTo(8, 8); c.moveTo(8, 0); c.lineTo(0, 8); },
    (c) => { c.moveTo(0, 4); c.lineTo(8, 4); c.moveTo(4, 0); c.lineTo(4, 8); },
  ];
  const tiles = measures.map((_, index) => {
    const tile = document.createElement("canvas");
    tile.width = tile.height = 8;
    const context = tile.getContext("2d");
    context.fillStyle = colour(index);
    context.fillRect(0, 0, 8, 8);
    context.beginPath();
    context.strokeStyle = "rgb(0 0 0 / .55)";
    context.lineWidth = 1.2;
    strokes[index % strokes.length](context);
    context.stroke();
    return tile;
  });
  const images = tiles.map((tile) => `url("${tile.toDataURL()}")`);
  const swatch = (emotion) => {
    const element = make("span", emotion === null ? "swatch none" : "swatch");
    if (emotion !== null) element.style.backgroundImage = images[emotion];
    return element;
  };

  // --- the film

  const end = Math.max(1, ...lines.map((line) => line.end));
  let media = null, duration = end, stopAt = null;
  const loadMedia = (source, kind) => {
    media = make(kind, "", "", { controls: "", preload: "metadata", "aria-label": "The film" });
    media.addEventListener("loadedmetadata", () => {
      if (Number.isFinite(media.duration)) duration = Math.max(end, media.duration);
      if (kind === "video" && !media.videoWidth) problem("shows no frames here: its video codec is not one of this browser's");
      show(view.start, view.span);
    });
    media.addEventListener("error", () => problem("cannot be played: it is not where this page looks for it, or its codec is not one of this browser's"));
    for (const name of ["play", "pause", "seeked"]) media.addEventListener(name, moved);
    media.addEventListener("play", () => requestAnimationFrame(tick));
    media.addEventListener("playing", () => ($("problem").hidden = media.videoWidth > 0 || kind === "audio"));
    media.src = source;
    $("player").replaceChildren(media);
  };
  const problem = (why) => {
    $("problem-text").textContent = `${data.film.name || "The film"} ${why}. Timeline and lines work without it.` +
      (data.film.source ? ` Expected at: ${decodeURIComponent(data.film.source)}.` : "") + " A file in mp4 with H.264 and AAC plays in every browser.";
    $("problem").hidden = false;
  };
  const embedded = $("film").textContent.trim();
  const openFilm = () => {
    if (embedded) {
      const bytes = Uint8Array.from(atob(embedded), (letter) => letter.charCodeAt(0));
      loadMedia(URL.createObjectURL(new Blob([bytes], { type: data.film.type })), data.film.kind);
    } else if (data.film.source) loadMedia(data.film.source, data.film.kind);
    else problem("is not known to this page");
  };
  $("file").addEventListener("change", (event) => {
    const [file] = event.target.files;
    if (!file) return;
    $("problem").hidden = true;
    loadMedia(URL.createObjectURL(file), file.type.startsWith("audio/") ? "audio" : "video");
  });
  let time = 0;
  const playable = () => media !== null && media.readyState > 0;
  const now = () => (playable() ? media.currentTime : time);
  const seek = (seconds) => {
    time = Math.min(Math.max(0, seconds), duration);
    if (playable()) media.currentTime = time;
    moved();
  };
  const toggle = () => {
    stopAt = null;
    if (playable()) media.paused ? media.play() : media.pause();
  };
  const playLine = (index) => {
    if (index === null) return;
    select(index);
    seek(lines[index].start);
    if (!playable()) return;
    stopAt = lines[index].end;
    media.play();
  };
  const goTo = (seconds) => {
    const next = at(seconds) ?? visible.find((index) => lines[index].start >= seconds);
    if (next !== undefined) select(next);
    stopAt = null;
    seek(seconds);
  };
  const tick = () => {
    if (media === null || media.paused) return;
    if (stopAt !== null && media.currentTime >= stopAt) {
      stopAt = null;
      media.pause();
      return;
    }
    follow();
    moved();
    requestAnimationFrame(tick);
  };
  const follow = () => {
    const here = stopAt === null ? at(now()) : null; // the latest line that is being said, if all are played
    if (here !== null && here !== selected) select(here);
    if (now() < view.start || now() > view.start + view.span) show(now() - view.span * 0.05, view.span);
  };
  const at = (seconds) => {
    let found = null;
    for (let index = 0; index < lines.length && lines[index].start <= seconds; index++)
      if (seconds < lines[index].end && passes[index]) found = index;
    return found;
  };
  const moved = () => {
    $("clock").textContent = `${clock(now(), 1)} / ${clock(duration)}`;
    draw();
  };

  // --- filters

  let passes = lines.map(() => true), visible = lines.map((_, index) => index), selected = lines.length ? 0 : null;
  const chips = (place, names, swatches) => {
    names.forEach((name, index) => {
      const chip = make("label", "chip"), box = make("input", "", "", { type: "checkbox", value: index });
      box.checked = true;
      chip.append(box);
      if (swatches) chip.append(swatch(swatches[index]));
      chip.append(make("bdi", "", name.text), make("span", "", String(name.count)));
      place.append(chip);
    });
  };
  const counted = (test) => lines.filter(test).length;
  const shownEmotions = [...emotions.keys(), null].filter((emotion) => emotion !== null || (emotions.length && counted((line) => line.emotion === null)));
  $("emotions").hidden = !emotions.length;
  chips($("emotions"), shownEmotions.map((emotion) => ({
    text: emotion === null ? "no emotion" : emotions[emotion].name, count: counted((line) => line.emotion === emotion),
  })), shownEmotions);
  const perPerson = people.map(() => 0);
  for (const line of lines) perPerson[line.person]++;
  chips($("people"), people.map((name, person) => ({ text: name, count: perPerson[person] })), null);
  const checked = (place) => new Set([...$(place).querySelectorAll("input:checked")].map((box) => Number(box.value)));
  const filter = () => {
    const wanted = new Set([...checked("emotions")].map((index) => shownEmotions[index])), who = checked("people");
    const words = $("search").value.trim().toLowerCase(), which = $("doubt").value;
    passes = lines.map((line) => (!emotions.length || wanted.has(line.emotion)) && who.has(line.person) &&
      (which === "all" || (which === "doubtful" ? doubtful(line) : missing(line).length > 0)) &&
      (!words || line.text.toLowerCase().includes(words)));
    visible = [...lines.keys()].filter((index) => passes[index]);
    $("count").textContent = visible.length === lines.length ? `${lines.length} lines` : `${visible.length} of ${lines.length} lines`;
    fill();
    if (selected === null || !passes[selected]) select(visible.length ? visible[0] : null);
    else select(selected);
  };
  for (const form of [$("find"), $("filters")]) {
    form.addEventListener("input", filter);
    form.addEventListener("submit", (event) => event.preventDefault());
  }

  // --- the list

  const face = (line, className) => {
    if (line.image) return make("img", className, "", { src: `data:image/jpeg;base64,${line.image}`, alt: "", decoding: "async" });
    return make("span", `${className} noface`, "no face");
  };
  const row = (line, index) => {
    const item = make("li", uncertain(line) ? "uncertain" : "", "", { role: "option", id: `line-${index}`, "aria-selected": "false" });
    const body = make("div", "body");
    body.append(make("bdi", "who", people[line.person]), make("span", "said", line.text, { dir: "auto" }));
    const lacking = missing(line).map(([name]) => name);
    if (lacking.length) body.append(make("span", "tag", `without ${lacking.join(", ")}`));
    const emotion = make("div", "emotion");
    if (emotions.length) emotion.append(swatch(line.emotion));
    emotion.append(make("span", "", sign(line)));
    if (line.emotion !== null) emotion.append(make("span", "time", percent(line.probabilities[line.emotion])));
    const thumb = make("div", "face");
    thumb.append(face(line, ""));
    item.append(make("span", "time start", clock(line.start, 1)), thumb, body, emotion);
    return item;
  };
  const rows = lines.map(() => null);
  const fill = () => {
    const list = $("lines");
    list.replaceChildren(...visible.map((index) => (rows[index] ??= row(lines[index], index))));
    if (!visible.length) list.append(make("li", "empty", lines.length ? "No line passes the filters." : "There are no lines."));
  };
  const select = (index, scroll = true) => {
    if (selected !== null && rows[selected]) rows[selected].setAttribute("aria-selected", "false");
    selected = index;
    const list = $("lines");
    list.removeAttribute("aria-activedescendant");
    if (index !== null && rows[index]) {
      rows[index].setAttribute("aria-selected", "true");
      list.setAttribute("aria-activedescendant", `line-${index}`);
      const box = rows[index].getBoundingClientRect(), outer = list.getBoundingClientRect();
      if (scroll && list.scrollHeight > list.clientHeight && (box.top < outer.top || box.bottom > outer.bottom))
        list.scrollTop += box.top - outer.top - outer.height / 3;
      const line = lines[index];
      if (line.end < view.start || line.start > view.start + view.span) show(line.start - view.span * 0.1, view.span);
      reveal(line);
    }
    details();
    draw();
  };
  const reveal = (line) => {
    const scroll = $("lanes-scroll"), top = line.person * LANE;
    if (top < scroll.scrollTop || top + LANE > scroll.scrollTop + scroll.clientHeight) scroll.scrollTop = top - LANE;
  };
  const step = (by, test = () => true) => {
    const place = visible.indexOf(selected);
    for (let next = place + by; next >= 0 && next < visible.length; next += by)
      if (test(lines[visible[next]])) {
        select(visible[next]);
        if (!playable() || media.paused) seek(lines[visible[next]].start);
        return;
      }
  };
  $("lines").addEventListener("click", (event) => {
    const item = event.target.closest("li[id]");
    if (item) playLine(Number(item.id.slice(5)));
  });

  // --- the selected line

  const details = () => {
    const place = $("details");
    place.replaceChildren();
    if (selected === null) return;
    const line = lines[selected], head = make("div", "head"), about = make("div");
    if (line.image) head.append(face(line, ""));
    about.append(make("bdi", "who", people[line.person]), make("div", "when", `line ${line.line}, ${clock(line.start, 1)} to ${clock(line.end, 1)}`));
    head.append(about);
    const bars = make("div", "bars");
    measures.forEach((measure, index) => {
      const first = index === line.emotion ? " first" : "";
      const name = make("span", `name${first}`), track = make("div", "track"), inner = make("div", "fill");
      name.append(swatch(index), make("span", "", measure.name));
      inner.style.width = `${100 * share(line, index)}%`;
      inner.style.backgroundImage = images[index];
      track.append(inner);
      bars.append(name, track, make("span", `value${first}`, written(line, index)));
    });
    const facts = make("ul", "facts");
    const fact = (text, className = "") => facts.append(make("li", className, text));
    if (untold(line)) fact(`${nothing[0].toUpperCase()}${nothing.slice(1)}: all modalities are missing.`, "missing");
    if (!untold(line)) for (const { name, low, high } of numbers) fact(`Scale of ${name}: ${low} to ${high}.`);
    if (uncertain(line)) fact(`Uncertain: the most probable emotion has less than ${percent(data.uncertain)}.`, "missing");
    const used = Object.keys(line.modalities).filter((name) => line.modalities[name] === null);
    if (used.length) fact(`From ${used.join(", ")}.`);
    for (const [name, reason] of missing(line)) fact(`Without ${name}: ${reason}.`, "missing");
    for (const [part, values] of Object.entries(line.parts ?? {})) {
      const [name, value] = Object.entries(values).reduce((best, one) => (one[1] > best[1] ? one : best));
      fact(`${part} alone: ${name} ${percent(value)}.`);
    }
    if (line.face) {
      const sure = line.face.probability === null ? "" : `, probability ${percent(line.face.probability)}`;
      fact(`Speaking face: track ${line.face.track}, chosen by ${line.face.chosen_by}${sure}.`);
    } else if (line.no_face) fact(`No face: ${line.no_face}.`);
    const turns = line.turns ?? [];
    if (turns.length) fact("Faces that speak: " + turns.map((turn) => `track ${turn.track} ${clock(turn.start, 1)} to ${clock(turn.end, 1)} (${percent(turn.probability)})`).join(", ") + ".");
    place.append(head, make("p", "said", line.text, { dir: "auto" }), bars, facts);
  };

  // --- the timeline: canvases of the size of the screen, whatever the length of the film

  const LANE = 30, BAR = 22, CURVE = 24, RULER = 20;
  const view = { start: 0, span: Math.min(end, Math.max(20, $("timeline").clientWidth / 12)) };
  const byStart = lines.map((line) => line.start);
  const longest = lines.reduce((most, line) => Math.max(most, line.end - line.start), 0);
  const firstAt = (seconds) => {
    let low = 0, high = byStart.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (byStart[middle] < seconds) low = middle + 1;
      else high = middle;
    }
    return low;
  };
  const show = (start, span) => {
    view.span = Math.min(Math.max(span, 2), duration);
    view.start = Math.min(Math.max(0, start), duration - view.span);
    draw();
  };
  const zoom = (factor, centre = null) => {
    const middle = centre ?? (now() >= view.start && now() <= view.start + view.span ? now() : view.start + view.span / 2);
    const span = Math.min(Math.max(view.span * factor, 2), duration);
    show(middle - ((middle - view.start) * span) / view.span, span);
  };
  let pending = false, style = null;
  const ink = (name) => style.getPropertyValue(name).trim();
  const gutter = () => Math.round(parseFloat(ink("--gutter")) * parseFloat(getComputedStyle(document.documentElement).fontSize));
  const draw = () => {
    if (pending) return;
    pending = true;
    requestAnimationFrame(() => {
      pending = false;
      style = getComputedStyle(document.documentElement);
      drawOverview();
      drawLanes();
      drawCurves();
    });
  };
  const prepared = (canvas, height) => {
    const ratio = window.devicePixelRatio || 1, width = canvas.parentElement.clientWidth - (canvas.id === "lanes" ? 0 : 2 * parseFloat(getComputedStyle(canvas.parentElement).paddingLeft));
    if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
      canvas.style.height = `${height}px`;
    }
    const context = canvas.getContext("2d");
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    context.clearRect(0, 0, width, height);
    context.font = "12px system-ui, sans-serif";
    context.textBaseline = "middle";
    return [context, width];
  };
  const scale = (width) => {
    const left = gutter();
    return (seconds) => left + ((seconds - view.start) / view.span) * (width - left);
  };
  const fitted = (context, text, width) => {
    if (width < 8) return "";
    if (context.measureText(text).width <= width) return text;
    let low = 0, high = text.length;
    while (low < high) {
      const middle = (low + high + 1) >> 1;
      if (context.measureText(text.slice(0, middle) + "…").width <= width) low = middle;
      else high = middle - 1;
    }
    return low > 2 ? text.slice(0, low) + "…" : "";
  };
  const playhead = (context, x, height) => {
    context.fillStyle = ink("--accent");
    context.fillRect(x - 1, 0, 2, height);
  };
  // Without an emotion the bar shows the first number: the higher, the stronger its colour.
  const shade = (line) => (line.emotion === null ? colour(emotions.length, 0.15 + 0.85 * share(line, emotions.length)) : colour(line.emotion));
  const drawOverview = () => {
    const height = 30, [context, width] = prepared($("overview"), height), x = (seconds) => (seconds / duration) * width;
    context.fillStyle = ink("--lane");
    context.fillRect(0, 0, width, height);
    lines.forEach((line, index) => {
      if (!passes[index]) return;
      context.fillStyle = untold(line) ? ink("--soft") : shade(line);
      context.fillRect(x(line.start), doubtful(line) ? 15 : 4, Math.max(1, x(line.end) - x(line.start)), doubtful(line) ? 11 : 22);
    });
    context.strokeStyle = ink("--ink");
    context.lineWidth = 2;
    context.strokeRect(x(view.start) + 1, 1, Math.max(4, x(view.span) - 2), height - 2);
    playhead(context, x(now()), height);
  };
  const inView = function* () {
    for (let index = firstAt(view.start - longest); index < lines.length && lines[index].start <= view.start + view.span; index++)
      if (lines[index].end >= view.start) yield index;
  };
  const steps = [0.1, 0.2, 0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600];
  const drawRuler = (context, width, x) => {
    const least = (70 * view.span) / Math.max(50, width - gutter()), by = steps.find((one) => one >= least) ?? 7200;
    context.fillStyle = ink("--panel");
    context.fillRect(0, 0, width, RULER);
    context.fillStyle = ink("--soft");
    for (let tick = Math.ceil(view.start / by) * by; tick <= view.start + view.span; tick += by) {
      context.fillRect(x(tick), RULER - 5, 1, 5);
      context.fillText(clock(tick, by < 1 ? 1 : 0), x(tick) + 3, 9);
    }
  };
  const drawLanes = () => {
    const scroll = $("lanes-scroll"), whole = RULER + people.length * LANE;
    $("lanes-size").style.height = `${whole}px`;
    const height = Math.max(RULER + LANE, Math.min(whole, scroll.clientHeight || whole)), [context, width] = prepared($("lanes"), height);
    const x = scale(width), left = gutter(), top = (person) => RULER + person * LANE - scroll.scrollTop;
    people.forEach((_, person) => {
      context.fillStyle = ink("--lane");
      context.fillRect(left, top(person) + 2, width - left, LANE - 4);
    });
    context.save();
    context.beginPath();
    context.rect(left, 0, width - left, height);
    context.clip();
    for (const index of inView()) {
      const line = lines[index], from = x(line.start), length = Math.max(2, x(line.end) - from - 1), y = top(line.person) + 4;
      if (y < -LANE || y > height) continue;
      context.globalAlpha = passes[index] ? 1 : 0.15;
      if (!untold(line)) {
        context.fillStyle = line.emotion === null ? shade(line) : context.createPattern(tiles[line.emotion], "repeat");
        context.globalAlpha *= uncertain(line) ? 0.45 : 1;
        context.fillRect(from, y, length, BAR);
        context.globalAlpha = passes[index] ? 1 : 0.15;
      }
      context.setLineDash(doubtful(line) ? [4, 3] : []);
      context.lineWidth = index === selected ? 3 : 1;
      context.strokeStyle = index === selected ? ink("--accent") : ink("--ink");
      if (length > 4 || index === selected) context.strokeRect(from + 0.5, y + 0.5, Math.max(1, length - 1), BAR - 1);
      context.setLineDash([]);
      const seen = Math.max(from, left), room = from + length - seen - 8;
      const text = fitted(context, sign(line), room) || (doubtful(line) && room > 6 ? sign(line)[0] : "");
      if (text) {
        context.fillStyle = line.emotion === null || uncertain(line) ? ink("--panel") : colour(line.emotion);
        context.fillRect(seen + 3, y + 4, context.measureText(text).width + 4, BAR - 8);
        context.fillStyle = line.emotion === null || uncertain(line) ? ink("--ink") : "#111";
        context.fillText(text, seen + 5, y + BAR / 2 + 1);
      }
    }
    context.globalAlpha = 1;
    context.restore();
    people.forEach((name, person) => {
      context.fillStyle = ink("--ink");
      context.fillText(fitted(context, name, left - 8), 2, top(person) + LANE / 2);
    });
    drawRuler(context, width, x);
    if (now() >= view.start && now() <= view.start + view.span) playhead(context, x(now()), height);
  };
  const drawCurves = () => {
    const height = 6 + measures.length * CURVE, [context, width] = prepared($("curves"), height), x = scale(width), left = gutter();
    const base = (measure) => 6 + (measure + 1) * CURVE - 2, tall = CURVE - 5;
    measures.forEach((measure, index) => {
      context.fillStyle = ink("--lane");
      context.fillRect(left, base(index) - tall, width - left, tall); // from 0 to 1, or over the scale
      context.fillStyle = context.createPattern(tiles[index], "repeat");
      context.fillRect(2, base(index) - 14, 11, 11);
      context.fillStyle = ink("--ink");
      context.fillText(fitted(context, measure.name, left - 22), 18, base(index) - 8);
    });
    context.save();
    context.beginPath();
    context.rect(left, 0, width - left, height);
    context.clip();
    const edge = ink("--ink");
    for (const index of inView()) {
      const line = lines[index];
      if (!passes[index] || untold(line)) continue;
      const from = x(line.start), length = Math.max(1, x(line.end) - from - 0.5);
      measures.forEach((_, measure) => {
        const high = share(line, measure) * tall;
        context.fillStyle = colour(measure, 0.65);
        context.fillRect(from, base(measure) - high, length, high);
        context.fillStyle = edge;
        context.fillRect(from, base(measure) - high - 0.5, length, 1);
      });
    }
    context.restore();
    if (now() >= view.start && now() <= view.start + view.span) playhead(context, x(now()), height);
  };

  // --- pointer

  const timeAt = (canvas, event) => {
    const box = canvas.getBoundingClientRect(), left = gutter();
    return view.start + ((event.clientX - box.left - left) / (box.width - left)) * view.span;
  };
  const lineAt = (event) => {
    const canvas = $("lanes"), box = canvas.getBoundingClientRect(), seconds = timeAt(canvas, event);
    const person = Math.floor((event.clientY - box.top - RULER + $("lanes-scroll").scrollTop) / LANE);
    const near = (3 * view.span) / box.width; // thin bars can be hit too
    let found = null;
    if (event.clientY - box.top >= RULER && seconds >= view.start)
      for (const index of inView())
        if (passes[index] && lines[index].person === person && lines[index].start - near <= seconds && seconds <= lines[index].end + near) found = index;
    return found;
  };
  const drag = { x: null, start: 0, moved: false };
  for (const canvas of [$("lanes"), $("curves")]) {
    canvas.addEventListener("pointerdown", (event) => {
      Object.assign(drag, { x: event.clientX, start: view.start, moved: false });
      canvas.setPointerCapture(event.pointerId);
    });
    canvas.addEventListener("pointermove", (event) => {
      if (drag.x === null) return hover(event, canvas);
      if (Math.abs(event.clientX - drag.x) > 4) drag.moved = true;
      if (drag.moved) show(drag.start - ((event.clientX - drag.x) / (canvas.clientWidth - gutter())) * view.span, view.span);
    });
    canvas.addEventListener("pointerup", (event) => {
      const index = drag.moved ? null : canvas.id === "lanes" ? lineAt(event) : null;
      if (index !== null) playLine(index);
      else if (!drag.moved && drag.x !== null) goTo(timeAt(canvas, event));
      drag.x = null;
    });
    canvas.addEventListener("pointercancel", () => (drag.x = null));
    canvas.addEventListener("pointerleave", () => ($("tip").hidden = true));
    canvas.addEventListener("wheel", (event) => {
      if (event.ctrlKey || event.metaKey) zoom(Math.exp(event.deltaY / 300), timeAt(canvas, event));
      else if (event.deltaX || event.shiftKey) show(view.start + ((event.deltaX || event.deltaY) / canvas.clientWidth) * view.span, view.span);
      else return; // the page scrolls
      event.preventDefault();
    }, { passive: false });
  }
  const hover = (event, canvas) => {
    const index = canvas.id === "lanes" ? lineAt(event) : null, tip = $("tip");
    canvas.style.cursor = index === null ? "grab" : "pointer";
    tip.hidden = index === null;
    if (index === null) return;
    const line = lines[index], box = $("timeline").getBoundingClientRect();
    tip.textContent = `${people[line.person]}, ${sign(line)}${line.emotion === null ? "" : ` ${percent(line.probabilities[line.emotion])}`}: ${line.text}`;
    tip.style.left = `${Math.min(event.clientX - box.left + 12, Math.max(0, box.width - 300))}px`;
    tip.style.top = `${event.clientY - box.top + 18}px`;
  };
  const jump = (event) => {
    const box = $("overview").getBoundingClientRect(), seconds = ((event.clientX - box.left) / box.width) * duration;
    show(seconds - view.span / 2, view.span);
    return seconds;
  };
  $("overview").addEventListener("pointerdown", (event) => {
    $("overview").setPointerCapture(event.pointerId);
    goTo(jump(event));
  });
  $("overview").addEventListener("pointermove", (event) => event.buttons && jump(event));
  $("lanes-scroll").addEventListener("scroll", draw, { passive: true });
  new ResizeObserver(draw).observe($("timeline"));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);

  // --- keys and buttons

  const actions = {
    " ": [toggle, "Space", "Play on, or pause"],
    Enter: [() => playLine(selected), "Enter", "Play the selected line"],
    ArrowDown: [() => step(1), "↓", "Next line"],
    ArrowUp: [() => step(-1), "↑", "Previous line"],
    u: [() => step(1, doubtful), "u", `Next line that is uncertain or has ${nothing}`],
    ArrowRight: [() => seek(now() + 2), "→", "2 s on"],
    ArrowLeft: [() => seek(now() - 2), "←", "2 s back"],
    "+": [() => zoom(0.5), "+", "Zoom in (also with Ctrl and the wheel)"],
    "-": [() => zoom(2), "−", "Zoom out"],
    0: [() => show(0, duration), "0", "The whole film"],
    "/": [() => $("search").focus(), "/", "Search the text"],
    "?": [() => $("help").showModal(), "?", "This help"],
  };
  document.addEventListener("keydown", (event) => {
    const target = event.target, own = target.closest("input, select, textarea, button, video, audio, summary, dialog");
    if (event.ctrlKey || event.metaKey || event.altKey || $("help").open) return;
    if (target === $("search") && event.key === "Escape") return $("lines").focus();
    if (own && !(own.matches("button, [type=checkbox]") && ![" ", "Enter"].includes(event.key))) return;
    const action = actions[event.key === "=" ? "+" : event.key];
    if (!action) return;
    event.preventDefault();
    action[0]();
  });
  $("play-line").addEventListener("click", () => playLine(selected));
  $("previous").addEventListener("click", () => step(-1));
  $("next").addEventListener("click", () => step(1));
  $("zoom-in").addEventListener("click", () => zoom(0.5));
  $("zoom-out").addEventListener("click", () => zoom(2));
  $("zoom-all").addEventListener("click", () => show(0, duration));
  $("help-button").addEventListener("click", () => $("help").showModal());
  for (const [, name, what] of Object.values(actions)) $("keys").append(make("dt", "", name), make("dd", "", what));
  $("threshold").textContent = percent(data.uncertain);
  for (const note of data.notes.length ? data.notes : ["None."]) $("notes").append(make("li", "", note));
  $("run").textContent = data.run;

  $("title").textContent = data.title;
  const doubts = emotions.length ? `${counted(uncertain)} uncertain, ` : "";
  $("summary").textContent = `${lines.length} lines, ${people.length} speaker${people.length === 1 ? "" : "s"}; ${doubts}${counted(untold)} without ${nothing.slice(3)}`;
  filter();
  openFilm();
  moved();
  document.documentElement.dataset.ready = String(lines.length);
})();
