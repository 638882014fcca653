import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.file.Path;

/** Uploads a picture as Java's own client does, which offers HTTP/2 first: java Upload.java VERSION URL FILE. */
public class Upload {
    public static void main(String[] words) throws Exception {
        var client = HttpClient.newBuilder().version(HttpClient.Version.valueOf(words[0])).build();
        var body = HttpRequest.BodyPublishers.ofFile(Path.of(words[2]));
        var request = HttpRequest.newBuilder(URI.create(words[1])).POST(body).build();
        // The second time over a connection that was kept.
        client.send(request, BodyHandlers.ofString());
        System.out.println(client.send(request, BodyHandlers.ofString()).body());
    }
}
