// A job of benches/runtimes.py in onnxruntime's packages for JavaScript: answers for all images, then times. src/lib.rs does the same
// in Rust. In Node this file is the program; in a browser job.html imports it.

/** `read` gives a file's bytes by its path. */
export async function run(ort, job, read) {
  const options = { executionProviders: [globalThis.window ? "wasm" : "cpu"], intraOpNumThreads: 1, interOpNumThreads: 1 };
  const load = async path => ort.InferenceSession.create(await read(path), options);
  const size = job.dims.reduce((a, b) => a * b), pixels = new Uint8Array(await read(job.images));
  const image = i => job.float
    ? new ort.Tensor("float32", new Float32Array(pixels.buffer, pixels.byteOffset + 4 * i * size, size), job.dims)
    : new ort.Tensor("uint8", pixels.subarray(i * size, (i + 1) * size), job.dims);
  const models = [];
  for (const { file, inputs, outputs } of job.files) models.push({ session: await load(file), inputs, outputs });
  const trunk = await load(job.flat), { thresholds } = job;
  const given = job.fixed ? {} : { thresholds: new ort.Tensor("float32", Float32Array.from(thresholds), [thresholds.length]) };
  const nested = async i => {
    const { label, exit } = await models[0].session.run({ image: image(i), ...given }, ["label", "exit"]);
    return [Number(label.data[0]), Number(exit.data[0])];
  };
  const stages = async i => {
    let value = image(i);
    for (const [exit, { session, inputs, outputs }] of models.entries()) {
      const found = await session.run({ [inputs[0]]: value }, outputs);
      if (exit === thresholds.length || found.uncertainty.data[0] < thresholds[exit]) return [Number(found.label.data[0]), exit + 1];
      value = found[outputs[2]];
    }
  };
  const answer = job.form === "if" ? nested : stages, flat = i => trunk.run({ image: image(i) }, [job.flat_output]);
  const answers = [], model_ns = [], flat_ns = [];
  for (let i = 0; i < job.count; i++) answers.push(await answer(i));
  for (const i of job.timed) await flat(i);
  const from = performance.now();
  while (!model_ns.length || performance.now() - from < 1e3 * job.seconds) {
    for (const [work, times] of [[answer, model_ns], [flat, flat_ns]])
      for (const i of job.timed) {
        const before = performance.now();
        await work(i);
        times.push(1e6 * (performance.now() - before));
      }
  }
  return { answers, model: model_ns, flat: flat_ns };
}

if (!globalThis.window) {
  const [{ readFile }, { createRequire }] = await Promise.all([import("node:fs/promises"), import("node:module")]);
  const ort = createRequire(`${process.argv[3]}/`)("onnxruntime-node");
  console.log(JSON.stringify(await run(ort, JSON.parse(await readFile(process.argv[2])), readFile)));
}
