// Rows that the browser saves as a file, CSV or Parquet. A row is {column: number, text, boolean or null}.
"use strict";

(() => {
  const namesOf = (list) => [...new Set(list.flatMap((row) => Object.keys(row)))];

  function save(file, type, ...parts) {
    const anchor = convscope.make("a", { href: URL.createObjectURL(new Blob(parts, { type })), download: file });
    anchor.click();
    setTimeout(() => URL.revokeObjectURL(anchor.href), 1000);
  }

  // A text that a spreadsheet would take for a formula gets an apostrophe before it.
  function saveCsv(list, file) {
    const names = namesOf(list);
    const plain = (value) => (value === null || value === undefined ? "" : typeof value === "string" && /^\s*[=+\-@]|^[\t\r\n]/.test(value) ? `'${value}` : String(value));
    const cell = (value) => (/[",\r\n]/.test(plain(value)) ? `"${plain(value).replaceAll('"', '""')}"` : plain(value));
    const text = [names, ...list.map((row) => names.map((name) => row[name]))].map((line) => line.map(cell).join(",")).join("\r\n");
    save(file, "text/csv", `${text}\r\n`);
  }

  // ---- Parquet: one row group, one uncompressed page a column, every column may be null (parquet.apache.org/docs/file-format)

  const BOOLEAN = 0, INT64 = 2, DOUBLE = 5, BYTE_ARRAY = 6;
  const utf8 = new TextEncoder();
  const varint = (value) => {
    const bytes = [];
    for (let rest = BigInt(value); ; rest >>= 7n) {
      if (rest < 128n) return [...bytes, Number(rest)];
      bytes.push(Number(rest & 127n) | 128);
    }
  };
  const little = (width, write) => {
    const view = new DataView(new ArrayBuffer(width));
    write(view);
    return [...new Uint8Array(view.buffer)];
  };
  const length = (value) => little(4, (view) => view.setUint32(0, value, true));

  // Thrift's compact protocol. A value is [type, bytes]; a struct is given as {field: value}, its fields in order.
  const i32 = (value) => [5, varint(2 * value)];
  const i64 = (value) => [6, varint(2 * value)];
  const text = (value) => [8, [...varint(utf8.encode(value).length), ...utf8.encode(value)]];
  const listOf = (values) => [9, [...(values.length < 15 ? [(values.length << 4) | values[0][0]] : [0xf0 | values[0][0], ...varint(values.length)]), ...values.flatMap(([, bytes]) => bytes)]];
  const struct = (fields) => {
    let last = 0;
    const bytes = Object.entries(fields).flatMap(([field, [type, content]]) => {
      const step = field - last;
      last = Number(field);
      return [(step << 4) | type, ...content];
    });
    return [12, [...bytes, 0]];
  };

  const KINDS = [
    [BOOLEAN, (value) => typeof value === "boolean"],
    [INT64, Number.isSafeInteger],
    [DOUBLE, (value) => typeof value === "number"],
    [BYTE_ARRAY, () => true],
  ];
  const PLAIN = {
    [BOOLEAN]: (values) => values.reduce((bytes, value, at) => ((bytes[at >> 3] |= value << at % 8), bytes), Array(Math.ceil(values.length / 8)).fill(0)),
    [INT64]: (values) => values.flatMap((value) => little(8, (view) => view.setBigInt64(0, BigInt(value), true))),
    [DOUBLE]: (values) => values.flatMap((value) => little(8, (view) => view.setFloat64(0, value, true))),
    [BYTE_ARRAY]: (values) => values.map((value) => utf8.encode(String(value))).flatMap((bytes) => [...length(bytes.length), ...bytes]),
  };

  function columnOf(name, cells) {
    const values = cells.filter((value) => value !== null && value !== undefined);
    const [kind] = KINDS.find(([, holds]) => values.every((value) => holds(value)));
    const levels = cells.flatMap((value) => [2, Number(value !== null && value !== undefined)]); // runs of one
    const page = [...length(levels.length), ...levels, ...PLAIN[kind](values)];
    const ofPage = struct({ 1: i32(cells.length), 2: i32(0), 3: i32(3), 4: i32(3) });
    const [, header] = struct({ 1: i32(0), 2: i32(page.length), 3: i32(page.length), 5: ofPage });
    return { name, kind, bytes: [...header, ...page] };
  }

  function saveParquet(list, file) {
    const columns = namesOf(list).map((name) => columnOf(name, list.map((row) => row[name])));
    let offset = 4;
    const chunks = columns.map(({ name, kind, bytes }) => {
      const size = i64(bytes.length);
      const about = { 1: i32(kind), 2: listOf([i32(0), i32(3)]), 3: listOf([text(name)]), 4: i32(0), 5: i64(list.length), 6: size, 7: size, 9: i64(offset) };
      offset += bytes.length;
      return struct({ 2: i64(offset - bytes.length), 3: struct(about) });
    });
    const schema = columns.map(({ name, kind }) => struct({ 1: i32(kind), 3: i32(1), 4: text(name), ...(kind === BYTE_ARRAY ? { 6: i32(0) } : {}) }));
    const group = struct({ 1: listOf(chunks), 2: i64(offset - 4), 3: i64(list.length) });
    const root = struct({ 4: text("rows"), 5: i32(columns.length) });
    const [, footer] = struct({ 1: i32(1), 2: listOf([root, ...schema]), 3: i64(list.length), 4: listOf([group]), 6: text("convscope") });
    const magic = "PAR1";
    const bytes = [...columns.flatMap((column) => column.bytes), ...footer, ...length(footer.length)];
    save(file, "application/vnd.apache.parquet", magic, new Uint8Array(bytes), magic);
  }

  Object.assign(convscope, { saveCsv, saveParquet });
})();
