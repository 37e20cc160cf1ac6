import com.google.gson.Gson;
import com.google.gson.GsonBuilder;
import com.google.gson.JsonObject;
import io.tus.java.client.ProtocolException;
import io.tus.java.client.TusClient;
import io.tus.java.client.TusExecutor;
import io.tus.java.client.TusURLMemoryStore;
import io.tus.java.client.TusUpload;
import io.tus.java.client.TusUploader;
import java.io.File;
import java.io.IOException;
import java.net.URL;
import java.util.LinkedHashMap;
import java.util.Map;

/**
 * Drives one upload with tus-java-client, as its README shows it: in a TusExecutor, with the delays that it has by itself.
 *
 * <p>The only argument is the job, as JSON: `path`, and `endpoint` or the `url` of an upload that is there already. The
 * only line on stdout tells the outcome, as JSON.
 */
public final class Driver {
    private Driver() {}

    public static void main(String[] args) throws IOException {
        JsonObject job = new Gson().fromJson(args[0], JsonObject.class);
        TusClient client = new TusClient();
        client.setUploadCreationURL(new URL(job.get("endpoint").getAsString()));
        client.enableResuming(new TusURLMemoryStore());
        TusUpload upload = new TusUpload(new File(job.get("path").getAsString()));
        Map<String, Object> outcome = new LinkedHashMap<>();
        outcome.put("url", null);
        outcome.put("error", null);
        TusExecutor executor =
                new TusExecutor() {
                    @Override
                    protected void makeAttempt() throws ProtocolException, IOException {
                        TusUploader uploader =
                                job.get("url").isJsonNull()
                                        ? client.resumeOrCreateUpload(upload)
                                        : client.beginOrResumeUploadFromURL(
                                                upload, new URL(job.get("url").getAsString()));
                        uploader.setChunkSize(1024);
                        while (uploader.uploadChunk() > -1) {}
                        uploader.finish();
                        outcome.put("url", uploader.getUploadURL().toString());
                    }
                };
        try {
            executor.makeAttempts();
        } catch (ProtocolException | IOException error) {
            outcome.put("error", error.toString());
        }
        System.out.println(new GsonBuilder().serializeNulls().create().toJson(outcome));
    }
}
