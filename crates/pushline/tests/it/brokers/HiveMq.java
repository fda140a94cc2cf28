import com.hivemq.embedded.EmbeddedExtension;
import com.hivemq.embedded.EmbeddedHiveMQ;
import com.hivemq.extension.sdk.api.ExtensionMain;
import com.hivemq.extension.sdk.api.auth.SimpleAuthenticator;
import com.hivemq.extension.sdk.api.parameter.ExtensionStartInput;
import com.hivemq.extension.sdk.api.parameter.ExtensionStartOutput;
import com.hivemq.extension.sdk.api.parameter.ExtensionStopInput;
import com.hivemq.extension.sdk.api.parameter.ExtensionStopOutput;
import com.hivemq.extension.sdk.api.services.Services;
import java.nio.file.Path;

/** HiveMQ Community Edition with its configuration and data in a folder. By itself it lets no client in. */
class HiveMq {
    public static void main(String[] arguments) {
        var folder = Path.of(arguments[0]);
        var letIn = EmbeddedExtension.builder()
                .withId("let-in")
                .withName("Lets every client in")
                .withVersion("1")
                .withAuthor("")
                .withPriority(0)
                .withStartPriority(1000)
                .withExtensionMain(new LetIn())
                .build();
        var broker = EmbeddedHiveMQ.builder()
                .withConfigurationFolder(folder)
                .withDataFolder(folder.resolve("data"))
                .withExtensionsFolder(folder.resolve("extensions"))
                .withEmbeddedExtension(letIn)
                .build();
        Runtime.getRuntime().addShutdownHook(new Thread(() -> broker.stop().join()));
        broker.start().join();
    }

    static class LetIn implements ExtensionMain {
        public void extensionStart(ExtensionStartInput input, ExtensionStartOutput output) {
            SimpleAuthenticator accept = (connect, result) -> result.authenticateSuccessfully();
            Services.securityRegistry().setAuthenticatorProvider(provider -> accept);
        }

        public void extensionStop(ExtensionStopInput input, ExtensionStopOutput output) {}
    }
}
