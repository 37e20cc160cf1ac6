// Drives one upload with tus-js-client or Uppy, with the retries that they have by themselves.
//
// The only argument is the job, as JSON: `client`, `path`, and `endpoint` or the `url` of an upload that is there already.
// The only line on stdout tells the outcome, as JSON. It runs from the folder with the packages.
import fs from 'node:fs'
import path from 'node:path'

const job = JSON.parse(process.argv[2])

async function uploadWithTus() {
  const tus = await import('tus-js-client')
  return new Promise((resolve, reject) => {
    const upload = new tus.Upload(fs.createReadStream(job.path), {
      endpoint: job.endpoint,
      uploadUrl: job.url,
      onSuccess: () => resolve(upload.url),
      onError: reject,
    })
    upload.start()
  })
}

async function uploadWithUppy() {
  const { default: Uppy } = await import('@uppy/core')
  const { default: Tus } = await import('@uppy/tus')
  const uppy = new Uppy({ logger: { debug() {}, warn() {}, error() {} } })
  uppy.use(Tus, { endpoint: job.endpoint, uploadUrl: job.url })
  // Under Node.js tus-js-client takes buffers and streams, no blobs; Uppy asks for a size.
  const data = Object.assign(fs.readFileSync(job.path), { size: fs.statSync(job.path).size })
  uppy.addFile({ name: path.basename(job.path), type: 'application/octet-stream', data })
  const { successful, failed } = await uppy.upload()
  if (failed.length > 0) throw new Error(failed[0].error)
  return successful[0].uploadURL
}

let outcome
try {
  outcome = { url: await { 'tus-js-client': uploadWithTus, uppy: uploadWithUppy }[job.client](), error: null }
} catch (error) {
  outcome = { url: null, error: error.message }
}
process.stdout.write(`${JSON.stringify(outcome)}\n`, () => process.exit(0))
